"""From harm to the probability that a label is wrong."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.odds import log_odds, probabilities, shift_to_mean, shifts_to_mean

# How far canaries are believed where they contradict the model's doubts: deviations of the logarithm of the slope, and
# of the tilt.
_BELIEF, _TILTED = 0.35, 0.4
_SLOPES = np.exp(np.linspace(-1.2, 1.2, 13))
# A little at least, so that no two standings have the same probability.
_TILTS = np.linspace(0.02, 1.02, 11)
_LEAST = 1e-6
# Log-odds of a standing are taken this far from 0 and 1.
_EDGE = 1e-4


@dataclass(frozen=True)
class Curve:
    """Log-odds of a wrong label at each standing of the harm, up to a constant; they rise.

    Attributes:
        standing: ascending.
        odds: natural logarithm of the odds at each of them.
        slope: what canaries made of the model's doubts: above 1 they are told from the rest better than it thinks.
        tilt: what they added where the model doubts all rows alike.
    """

    standing: Float[np.ndarray, " point"]
    odds: Float[np.ndarray, " point"]
    slope: float
    tilt: float

    def at(self, standing: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """The log-odds at some standings."""
        found: np.ndarray = np.interp(standing, self.standing, self.odds)
        return found


@dataclass(frozen=True)
class Form:
    """What a curve of log-odds is bent from.

    Attributes:
        standing: each that occurs, ascending.
        weights: share of the rows that have it.
        doubts: log-odds of the model's doubts there, averaged so that they never fall.
        steep: log-odds of the standing itself.
    """

    standing: Float[np.ndarray, " point"]
    weights: Float[np.ndarray, " point"]
    doubts: Float[np.ndarray, " point"]
    steep: Float[np.ndarray, " point"]

    def at(self, standing: Float[np.ndarray, " row"]) -> "Form":
        """The form at some standings, of equal weight; straight between its points, as all that is bent from it is."""
        doubts, steep = (np.interp(standing, self.standing, values) for values in (self.doubts, self.steep))
        return Form(standing, np.full(len(standing), 1 / max(len(standing), 1)), doubts, steep)

    def bent(self, slope: float, tilt: float) -> Float[np.ndarray, " point"]:
        """Log-odds at each standing, up to a constant."""
        found: np.ndarray = slope * self.doubts + tilt * self.steep
        return found


def form_of(rest: Float[np.ndarray, " row"], doubts: Float[np.ndarray, " row"]) -> Form:
    """The form that doubts have along standings."""
    from sklearn.isotonic import IsotonicRegression

    points, counts = np.unique(rest, return_counts=True)
    averaged = IsotonicRegression().fit(rest, doubts).predict(points)
    return Form(points, counts / len(rest), log_odds(averaged, _LEAST), log_odds(points, _EDGE))


def belief(slope: float, tilt: float) -> float:
    """Negative logarithm of how probable a bend is before canaries are asked."""
    return float(0.5 * (np.log(slope) / _BELIEF) ** 2 + 0.5 * (tilt / _TILTED) ** 2)


def canary_likelihood(
    wrong: Float[np.ndarray, "*canary"], share: float, righted: float
) -> Float[np.ndarray, "*canary"]:
    """Log-likelihood of where canaries stand: as wrong rows do, or as right ones where the new label is the true one.

    Args:
        wrong: probability that a row at each of their standings is wrong, within 0 and 1.
        share: of wrong rows among those they stand among.
        righted: share of the canaries whose new label is the true one.
    """
    result: np.ndarray = np.log((1 - righted) * wrong / share + righted * (1 - wrong) / (1 - share))
    return result


def odds_curve(
    rest: Float[np.ndarray, " row"],
    doubts: Float[np.ndarray, " row"],
    canaries: Float[np.ndarray, " canary"] | None,
    share: float,
    classes: int,
) -> Curve:
    """The log-odds that a label is wrong, as a function of harm alone.

    Their form is that of the model's doubts, averaged by isotonic regression: a slope times the log-odds of these, and
    a tilt times those of the standing itself (a model that learned little doubts all rows alike, where harm still tells
    them apart). Slope and tilt are those that make the standings of the canaries most likely, near 1 and 0. Canaries
    are wrong but where the row was wrong before and the new label is its true one.

    Args:
        rest: standing of each row that is no canary.
        doubts: of the same rows (see `undertow.calibrate.share.doubts`).
        canaries: standing of each canary among the rest; None takes the doubts at their word, as those of a model that
            learned from none of these rows can be.
        share: of wrong labels, above 0.
        classes: number of classes.
    """
    form, righted = form_of(rest, doubts), share / (classes - 1)
    if canaries is None:
        return Curve(form.standing, form.bent(1.0, _TILTS[0]), 1.0, float(_TILTS[0]))
    bends = list(product(_SLOPES, _TILTS))
    shapes = np.stack([form.bent(*bend) for bend in bends])
    shifts = shifts_to_mean(shapes, share, form.weights)
    best: tuple[float, Curve] | None = None
    for (slope, tilt), bent, shift in zip(bends, shapes, shifts, strict=True):
        wrong = probabilities(bent + shift)
        here = np.clip(np.interp(canaries, form.standing, wrong), _LEAST, 1 - _LEAST)
        cost = belief(slope, tilt) - float(canary_likelihood(here, share, righted).sum())
        if best is None or cost < best[0]:
            best = cost, Curve(form.standing, bent, float(slope), float(tilt))
    assert best is not None
    return best[1]


def handed_on(
    doubts: Float[np.ndarray, " row"], harm: Float[np.ndarray, " row"], labels: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Doubts of another order handed on to the rows of a harm: within each label the most harmful gets the largest.

    Averaged along an order that is not their own, doubts come out lower at its top than at that of their own; of a harm
    that finds at least as many wrong rows they are too low then.

    Args:
        doubts: of some rows.
        harm: of the same rows; which of two equal ones gets more is of no account to `odds_curve`.
        labels: of the same rows, as class index.
    """
    found = np.empty_like(doubts)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        found[own[np.argsort(harm[own], kind="stable")]] = np.sort(doubts[own])
    return found


def label_offsets(
    odds: Float[np.ndarray, " row"], labels: Int[np.ndarray, " row"], of_label: Float[np.ndarray, " class"]
) -> Float[np.ndarray, " class"]:
    """What is added to the log-odds of the rows of each label, so that their mean probability is that label's share.

    Args:
        odds: of some rows, by their standing within their label.
        labels: of the same rows, as class index.
        of_label: share of wrong labels among the rows of each label, each above 0.
    """
    offsets = np.zeros(len(of_label))
    for label in np.unique(labels):
        offsets[label] = shift_to_mean(odds[labels == label], float(of_label[label]))
    return offsets
