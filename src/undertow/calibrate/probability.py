"""From harm to the probability that a label is wrong."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.calibrate.share import Share

# How far canaries are believed where they contradict the model's doubts: deviation of the logarithm of the slope.
_BELIEF = 0.35
_SLOPES = np.exp(np.linspace(-1.2, 1.2, 49))
_LEAST = 1e-6


@dataclass(frozen=True)
class Curve:
    """Probability of a wrong label at each standing of the harm, never falling.

    Attributes:
        standing: ascending.
        probability: at each of them.
        slope: what canaries made of the model's doubts: above 1 they are told from the rest better than it thinks.
    """

    standing: Float[np.ndarray, " point"]
    probability: Float[np.ndarray, " point"]
    slope: float

    def at(self, standing: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """The probability of a wrong label at some standings."""
        found: np.ndarray = np.interp(standing, self.standing, self.probability)
        return found


def probability_curve(
    rest: Float[np.ndarray, " row"],
    doubts: Float[np.ndarray, " row"],
    canaries: Float[np.ndarray, " canary"],
    share: float,
    classes: int,
    *,
    slopes: Float[np.ndarray, " slope"] = _SLOPES,
) -> Curve:
    """The probability that a label is wrong, as a function of harm alone.

    Its form is that of the model's doubts, averaged by isotonic regression; its mean over the rest is the share; and
    its slope (of the log-odds) is the one that makes the standings of the canaries most likely, near 1. Canaries are
    wrong but where the row was wrong before and the new label is its true one.

    Args:
        rest: standing of each row that is no canary.
        doubts: of the same rows (see `undertow.calibrate.share.doubts`).
        canaries: standing of each canary among the rest.
        share: of wrong labels.
        classes: number of classes.
        slopes: that are tried.
    """
    from sklearn.isotonic import IsotonicRegression

    points, place = np.unique(rest, return_inverse=True)
    if share <= 0 or doubts.max() <= 0:
        return Curve(points, np.zeros(len(points)), 1.0)
    averaged = np.clip(IsotonicRegression().fit(rest, doubts).predict(points), _LEAST, 1 - _LEAST)
    odds, weights = np.log(averaged / (1 - averaged)), np.bincount(place) / len(rest)
    righted = share / (classes - 1)
    best: tuple[float, np.ndarray, float] | None = None
    for slope in slopes:
        wrong = _with_mean(slope * odds, weights, share)
        here = np.interp(canaries, points, wrong)
        likelihood = np.log((1 - righted) * here / share + righted * (1 - here) / (1 - share)).sum()
        cost = float(-likelihood + 0.5 * (np.log(slope) / _BELIEF) ** 2)
        if best is None or cost < best[0]:
            best = cost, wrong, float(slope)
    assert best is not None
    return Curve(points, best[1], best[2])


def _with_mean(odds: np.ndarray, weights: np.ndarray, mean: float) -> np.ndarray:
    """Probabilities of log-odds moved by a constant, so that their weighted mean is as given; by bisection."""
    low, high = -60.0 - odds.max(), 60.0 - odds.min()
    for _ in range(80):
        middle = (low + high) / 2
        found = 1 / (1 + np.exp(-np.clip(odds + middle, -500, 500)))
        low, high = (middle, high) if weights @ found < mean else (low, middle)
    result: np.ndarray = np.clip(found, _LEAST, 1 - _LEAST)
    return result


@dataclass(frozen=True)
class Curves:
    """The curve of the estimated share, and those of the ends of its interval."""

    value: Curve
    low: Curve
    high: Curve


def probability_curves(
    rest: Float[np.ndarray, " row"],
    doubts: Float[np.ndarray, " row"],
    canaries: Float[np.ndarray, " canary"],
    share: Share,
    classes: int,
) -> Curves:
    """`probability_curve` of the share, and of both ends of its interval with the same slope: none crosses another."""
    value = probability_curve(rest, doubts, canaries, share.value, classes)
    same = np.array([value.slope])
    low, high = (
        probability_curve(rest, doubts, canaries, end, classes, slopes=same) for end in (share.low, share.high)
    )
    return Curves(value, low, high)
