"""What the standings of canaries say of the share of wrong labels: the more is wrong, the less they can stand out."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.mixture import label_sizes, shares_of_labels
from undertow.calibrate.odds import probabilities, shifts_to_mean
from undertow.calibrate.probability import belief, canary_likelihood, form_of
from undertow.calibrate.told import SURE, Reading, Told, likelihood_ratio

# How much of what the standings of canaries say is counted: they speak by their probabilities too, and errors are not
# always like canaries.
HEARD = 0.5
# Shares of all rows at which standings are asked, and bends of their curve.
TOTALS = np.array([0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6])
_SLOPES, _TILTS = np.exp(np.linspace(-1.2, 1.2, 7)), np.linspace(0.02, 1.42, 8)
# Rows of a label that are asked where they stand.
_FEW = 250
# Canaries of a label that speak for it; those of labels with fewer are taken together.
_OWN = 10


@dataclass(frozen=True)
class Seen:
    """Where rows stand by harm.

    Attributes:
        rest: standing of each row that is no canary.
        canaries: of each canary, with the label it was trained on.
    """

    rest: Float[np.ndarray, " row"]
    canaries: Float[np.ndarray, " canary"]


def standing_evidence(
    rest: Told,
    canaries: Told,
    seen: Seen,
    own_shares: Float[np.ndarray, " class"],
    memory: float,
    reading: Reading,
) -> tuple[Float[np.ndarray, "total bend canary"], Float[np.ndarray, " bend"]]:
    """Log-likelihood of where each canary stands, at every share and bend of the curve of log-odds, and beliefs.

    A canary stands among the rows of its label as wrong ones do, whose density is at most 1 / share.

    Args:
        rest: rows that are not canaries, with their labels.
        canaries: canaries with their own labels, taught other ones.
        seen: where both stand.
        own_shares: first estimate of the share of wrong labels, of each label.
        memory: first estimate of the strength of memory.
        reading: of the model's probabilities.
    """
    classes, sizes = len(reading.priors), label_sizes(rest)
    bends = list(product(_SLOPES, _TILTS))
    found_by = np.empty((len(TOTALS), len(bends), len(canaries)))
    ratio = likelihood_ratio(rest, reading, memory)
    groups = _groups(canaries.learned, rest, seen)
    for t, total in enumerate(TOTALS):
        form = form_of(seen.rest, total / (total + (1 - total) * np.exp(ratio)))
        of_label = shares_of_labels(own_shares, total, sizes, reading)
        righted = total / (classes - 1)
        for mine, among, label in groups:
            here, there = (form.at(u) for u in (seen.canaries[mine], among))
            share = float(total if label is None else of_label[label])
            shifts = shifts_to_mean(np.stack([there.bent(*bend) for bend in bends]), share)
            odds = np.stack([here.bent(*bend) for bend in bends]) + shifts[:, None]
            wrong = np.clip(probabilities(odds), SURE, 1 - SURE)
            found_by[t][:, mine] = canary_likelihood(wrong, share, righted)
    return found_by, np.array([belief(*bend) for bend in bends])


def _groups(
    taught: Int[np.ndarray, " canary"], rest: Told, seen: Seen
) -> list[tuple[Int[np.ndarray, " mine"], Float[np.ndarray, " some"], int | None]]:
    """Canaries that stand among the same rows, some standings of these, and the label; None for several labels."""

    def some(standings: np.ndarray) -> np.ndarray:
        ordered: np.ndarray = np.sort(standings)[:: max(1, len(standings) // _FEW)]
        return ordered

    large = [c for c in np.unique(taught) if (taught == c).sum() >= _OWN and (rest.labels == c).any()]
    found = [(np.flatnonzero(taught == c), some(seen.rest[rest.labels == c]), int(c)) for c in large]
    others = np.flatnonzero(~np.isin(taught, large))
    return [*found, (others, some(seen.rest), None)] if len(others) else list(found)


def heard(
    likelihood: Float[np.ndarray, "total bend"], beliefs: Float[np.ndarray, " bend"]
) -> Float[np.ndarray, " total"]:
    """What standings say of every share, by the bend that suits them best."""
    best = (likelihood - beliefs).max(axis=1)
    result: np.ndarray = HEARD * (best - best.max())
    return result
