"""Which harm to use: the stack, unless anchors say that a single score is better."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.controls.stacking import percentile

# Level of the test, shared by all candidates (Bonferroni). Halved or doubled, no choice on the benchmark changes.
LEVEL = 0.05


@dataclass(frozen=True)
class Evidence:
    """What controls say of one score: AUROC with its standard error; NaN where there are no such controls.

    Attributes:
        canaries: of canaries against rows.
        canaries_error: its standard error.
        anchors: of rows against anchors; 0.5 where rows are no worse than good rows.
        anchors_error: its standard error.
        combined: mean of both distances from 0.5, by their precisions.
    """

    canaries: float
    canaries_error: float
    anchors: float
    anchors_error: float
    combined: float


def evidence(
    rows: Float[np.ndarray, " row"],
    canaries: Float[np.ndarray, " canary"],
    anchors: Float[np.ndarray, " anchor"],
    weights: Float[np.ndarray, " anchor"],
) -> Evidence:
    """AUROC of one score by both kinds of controls, and the two combined by inverse variance.

    Args:
        rows: scores of the rows.
        canaries: of the canaries.
        anchors: of the anchors.
        weights: density ratios of the anchors.
    """
    spies = _mean(percentile(canaries, rows), np.ones(len(canaries)))
    good = _mean(1 - percentile(anchors, rows), weights)
    known = [(value, error) for value, error in (spies, good) if np.isfinite(value)]
    precision = np.array([1 / max(error, 1e-3) ** 2 for _, error in known])
    values = np.array([value for value, _ in known])
    combined = float(precision @ values / precision.sum()) if known else float("nan")
    return Evidence(*spies, *good, combined)


def better_single(
    stack: Float[np.ndarray, " row"],
    stack_anchors: Float[np.ndarray, " anchor"],
    singles: Float[np.ndarray, "candidate row"],
    singles_anchors: Float[np.ndarray, "candidate anchor"],
    weights: Float[np.ndarray, " anchor"],
    *,
    seed: int = 0,
) -> int | None:
    """The single score that two halves of the anchors each find significantly better than the stack, or None.

    AUROC of rows against good rows is linear in that of wrong against right labels, so its difference says which score
    is better. Each half chooses by itself, in a paired one-sided z test at `LEVEL` over all candidates. A half of the
    anchors thus makes p-values by a score that the other half would choose as well.

    Args:
        stack: stacked scores of the rows.
        stack_anchors: of the anchors.
        singles: scores of the rows by each candidate.
        singles_anchors: of the anchors.
        weights: density ratios of the anchors.
        seed: draws the halves.
    """
    from scipy.stats import norm

    if not len(singles) or len(weights) < 4:
        return None
    own = percentile(stack_anchors, stack)
    gains = np.stack([own - percentile(a, r) for a, r in zip(singles_anchors, singles, strict=True)])
    half = np.random.default_rng(seed).permutation(np.arange(len(weights)) % 2)
    needed = norm.ppf(1 - LEVEL / len(singles))
    chosen = set()
    for side in (0, 1):
        mine = half == side
        found = [_mean(gain[mine], weights[mine]) for gain in gains]
        scores = np.array([value / max(error, 1e-9) for value, error in found])
        chosen.add(int(scores.argmax()) if scores.max() > needed else None)
    return chosen.pop() if len(chosen) == 1 else None


def _mean(values: Float[np.ndarray, " row"], weights: Float[np.ndarray, " row"]) -> tuple[float, float]:
    """Weighted mean and its standard error; NaN of fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    part = weights / weights.sum()
    mean = float(part @ values)
    return mean, float(np.sqrt((part**2) @ (values - mean) ** 2))
