"""Conformal p-values against rows known to be good, and what follows from them: cuts, promises, probabilities."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

# Above this p-value rows count as good in Storey's estimate of their share (Storey 2002). At 0.25 or 0.75 the cuts of
# the benchmark move by less than their scatter over seeds.
LAMBDA = 0.5
# Confidence of the promise over the draw of the controls.
SURE = 0.9
_DRAWS = 4000


@dataclass(frozen=True)
class Null:
    """Scores of rows that are known to be good.

    Attributes:
        scores: higher is worse.
        weights: of each; alike where they come from the same population as the rows.
        number: how many independent rows they stand for.
    """

    scores: Float[np.ndarray, " control"]
    weights: Float[np.ndarray, " control"]
    number: float

    def tail(self, scores: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """Weighted share of the controls with a score at least as high."""
        order = np.argsort(-self.scores, kind="stable")
        summed = np.concatenate([[0.0], np.cumsum(self.weights[order])])
        place = np.searchsorted(-self.scores[order], -scores, side="right")
        result: np.ndarray = summed[place] / summed[-1]
        return result


def p_values(scores: Float[np.ndarray, " row"], null: Null) -> Float[np.ndarray, " row"]:
    """Conformal p-value of each row: (1 + controls at least as harmful) / (1 + controls), ties counted against the row.

    Weighted controls stand for their effective number. They are those of Tibshirani et al. (2019) with the mean weight
    of a row in place of the row's own, so that a p-value falls whenever the score rises. Without weights they are the
    p-values of Bates et al. (2023).
    """
    result: np.ndarray = (1 + null.number * null.tail(scores)) / (1 + null.number)
    return result


def null_share(p: Float[np.ndarray, " row"], at: float = LAMBDA) -> float:
    """Share of good rows, at most 1: (1 + rows above ``at``) / (rows (1 - at)) (Storey 2002)."""
    return float(min(1.0, (1 + (p > at).sum()) / (len(p) * (1 - at)))) if len(p) else 1.0


def discoveries(p: Float[np.ndarray, " row"], fdr: float, null: float = 1.0) -> int:
    """How many rows Benjamini and Hochberg (1995) select at a false discovery rate, given the share of good rows."""
    ordered = np.sort(p)
    held = np.flatnonzero(ordered * null * len(p) <= fdr * np.arange(1, len(p) + 1))
    return int(held[-1]) + 1 if len(held) else 0


def expected_precision(p: Float[np.ndarray, " row"], null: float) -> Float[np.ndarray, " cut"]:
    """Share of wrong labels among the first 0, 1, ..., n rows: 1 - null n p / rows, made to fall with the cut."""
    n = len(p)
    good = null * n * np.sort(p) / np.arange(1, n + 1)
    precision = np.clip(1 - np.minimum.accumulate(good[::-1])[::-1], 0, 1)
    return np.concatenate([precision[:1], precision]) if n else np.zeros(1)


@lru_cache(maxsize=64)
def _level(number: int, sure: float) -> float:
    """Pointwise level at which bands of beta quantiles hold for all order statistics at once, by simulation."""
    from scipy.stats import beta

    drawn = np.sort(np.random.default_rng(0).random((_DRAWS, number)), axis=1)
    place = np.arange(1, number + 1)
    # An upper bound of the tail at the k-th highest control fails where the control's own tail is above it.
    worst = beta.cdf(drawn, place, number - place + 1).max(axis=1)
    return float(np.quantile(worst, sure))


def upper_tail(tail: Float[np.ndarray, " row"], number: float, sure: float = SURE) -> Float[np.ndarray, " row"]:
    """Upper bound of the true tail of good rows that holds at all cuts at once, with some confidence.

    Calibration-conditional: over the draw of the controls (Bates et al. 2023, section 3). The band has equal levels at
    all order statistics (Berk and Jones 1979), set by simulation.

    Args:
        tail: share of the controls with a score at least as high.
        number: effective number of controls.
        sure: confidence.
    """
    from scipy.stats import beta

    m = max(round(number), 1)
    # With k controls at least as high, the true tail is below that of the next one.
    above = np.minimum(np.floor(tail * m + 1e-9), m - 1) + 1
    result: np.ndarray = np.where(tail * m >= m, 1.0, beta.ppf(_level(m, sure), above, m - above + 1))
    return result


def sure_precision(
    scores: Float[np.ndarray, " row"], null: Null, good: float = 1.0, sure: float = SURE
) -> Float[np.ndarray, " cut"]:
    """Lower bound of the share of wrong labels among the first 0, 1, ..., n rows, with some confidence at all cuts.

    Args:
        scores: of the rows.
        null: scores of the controls.
        good: upper bound of the share of good rows.
        sure: confidence over the draw of the controls.
    """
    n = len(scores)
    ordered = -np.sort(-scores)
    bound = 1 - good * n * upper_tail(null.tail(ordered), null.number, sure) / np.arange(1, n + 1)
    result: np.ndarray = np.clip(np.concatenate([bound[:1], bound]), 0, 1)
    return result


def wrong_probability(p: Float[np.ndarray, " row"], null: float) -> Float[np.ndarray, " row"]:
    """Probability of each row to be wrong: 1 - local false discovery rate, which never falls as p falls.

    The density of the p-values is the slope of the least concave majorant of their distribution (Grenander 1956), as in
    Strimmer (2008): an isotonic density ratio of rows to controls.
    """
    from sklearn.isotonic import isotonic_regression

    values, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    gaps = np.diff(np.concatenate([[0.0], values]))
    slopes = isotonic_regression(counts / len(p) / gaps, sample_weight=gaps, increasing=False)
    result: np.ndarray = np.clip(1 - null / np.maximum(slopes, 1e-12), 0, 1)[place]
    return result
