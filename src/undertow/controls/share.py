"""The share of wrong labels: a lower bound that holds, a figure for errors of a known kind, and what stays unseen."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.controls.conformal import Null, upper_tail

# Confidence of the lower bound of the share.
SURE = 0.95
# Bins of the null distribution in which rows are compared with controls. Half or twice as many move the share by 0.01.
BINS = 10
_SHARES = np.linspace(0, 0.999, 1000)


@dataclass(frozen=True)
class Share:
    """How many labels are wrong.

    Attributes:
        least: lower bound, with the confidence `SURE`.
        unseen: share that could go unnoticed: if errors are like canaries, the smallest that would lift ``least``
            above 0.
        like_canaries: share if errors are like canaries; NaN without canaries.
        low: lower end of its 95% interval.
        high: upper end.
    """

    least: float
    unseen: float
    like_canaries: float
    low: float
    high: float


def least_share(scores: Float[np.ndarray, " row"], null: Null, sure: float = SURE) -> float:
    """Lower bound of the share of wrong labels.

    At every cut, the rows' tail is at most share + (1 - share) times the tail of good rows (Genovese and Wasserman
    2004; Blanchard, Lee and Scott 2010). The bound is the largest over all cuts of

        (tail of rows - upper bound of the good tail) / (1 - upper bound of the good tail),

    each with half of what the confidence leaves: Dvoretzky-Kiefer-Wolfowitz for rows, a band for controls.
    """
    ordered = -np.sort(-scores)
    rows = np.arange(1, len(ordered) + 1) / len(ordered)
    slack, good = _bounds(null, ordered, len(ordered), sure)
    inside = good < 1
    found = (rows[inside] - slack - good[inside]) / (1 - good[inside])
    return float(max(found.max(initial=0.0), 0.0))


def unseen_share(canaries: Float[np.ndarray, " canary"], rows: int, null: Null, sure: float = SURE) -> float:
    """Smallest share of errors like canaries that would be expected to lift `least_share` above 0."""
    ordered = -np.sort(-canaries)
    tail = null.tail(ordered)
    slack, good = _bounds(null, ordered, rows, sure)
    needed = good + slack - tail
    gain = np.arange(1, len(ordered) + 1) / len(ordered) - tail
    found = needed[gain > 0] / gain[gain > 0]
    return float(min(found.min(initial=1.0), 1.0))


def _bounds(
    null: Null, cuts: Float[np.ndarray, " cut"], rows: int, sure: float
) -> tuple[float, Float[np.ndarray, " cut"]]:
    """How far the tail of the rows may stray (DKW), and the upper bound of the good tail: half the error each."""
    slack = float(np.sqrt(np.log(2 / (1 - sure)) / (2 * rows)))
    return slack, upper_tail(null.tail(cuts), null.number, 1 - (1 - sure) / 2)


def mixture_share(
    scores: Float[np.ndarray, " row"], canaries: Float[np.ndarray, " canary"], null: Null
) -> tuple[float, float, float]:
    """Share of wrong labels if they are like canaries: the mixture proportion of greatest likelihood, and its interval.

    Rows are counted in bins that each hold as many controls; their shares in the bins are a mixture of those of
    canaries and of controls, each with one row added to every bin. The interval is that of the profile likelihood (95%)
    widened by the scatter of canaries and controls in a bootstrap of their counts.
    """
    inner = _quantiles(null, np.arange(1, BINS) / BINS)
    counts, spies = (np.bincount(np.searchsorted(inner, v), minlength=BINS) for v in (scores, canaries))
    weights = np.bincount(np.searchsorted(inner, null.scores), null.weights, minlength=BINS)
    controls = null.number * weights / weights.sum()
    value = _likeliest(counts, spies, controls)
    random = np.random.default_rng(0)

    def drawn(counts: np.ndarray) -> np.ndarray:
        result: np.ndarray = random.multinomial(max(round(counts.sum()), 1), counts / counts.sum())
        return result

    resampled = [_likeliest(drawn(counts), drawn(spies), drawn(controls)) for _ in range(200)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return value, float(min(low, value)), float(max(high, value))


def _quantiles(null: Null, levels: Float[np.ndarray, " level"]) -> Float[np.ndarray, " level"]:
    order = np.argsort(null.scores, kind="stable")
    summed = np.cumsum(null.weights[order]) / null.weights.sum()
    result: np.ndarray = null.scores[order][np.minimum(np.searchsorted(summed, levels), len(order) - 1)]
    return result


def _likeliest(counts: np.ndarray, spies: np.ndarray, controls: np.ndarray) -> float:
    wrong, good = ((c + 1) / (c + 1).sum() for c in (spies, controls))
    mixed = _SHARES[:, None] * wrong + (1 - _SHARES[:, None]) * good
    return float(_SHARES[(counts * np.log(mixed)).sum(axis=1).argmax()])


def exact_interval(wrong: int, rows: int, sure: float = SURE) -> tuple[float, float, float]:
    """Share of wrong labels in a random sample that was labelled again, with its exact interval (Clopper-Pearson)."""
    from scipy.stats import binomtest

    found = binomtest(wrong, rows).proportion_ci(sure, method="exact")
    return wrong / rows, float(found.low), float(found.high)
