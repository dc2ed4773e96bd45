"""How well a harm score finds samples that are known to be noisy.

True noise reaches metrics only. Ties are scored by their expectation under random order, so a constant
score gets what random order gets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class NoiseDetection:
    """The NDR curve of one harm score.

    Attributes:
        inspected: share of the samples inspected, most harmful first, [n + 1] from 0 to 1.
        found: share of all noisy samples among them, [n + 1] from 0 to 1.
        noisy: number of noisy samples.
    """

    inspected: Float[np.ndarray, " m"]
    found: Float[np.ndarray, " m"]
    noisy: int

    def ndr(self, share: float) -> float:
        """NDR@share: the share of all noisy samples among the most harmful ``share`` (0..1)."""
        return float(np.interp(share, self.inspected, self.found))

    @property
    def auc(self) -> float:
        """AUC-NDR: area under the curve over that of the ideal curve; 1 = all noise first."""
        n = len(self.inspected) - 1
        return float(np.trapezoid(self.found, dx=1.0) / (n - self.noisy / 2))


def noise_detection(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> NoiseDetection:
    """NDR curve of a harm score (higher = worse) against the truth.

    Raises:
        ValueError: when no sample is noisy; the rate is then not defined.
    """
    n, total = len(harm), int(noisy.sum())
    if total == 0:
        raise ValueError("no sample is noisy, so a noise detection rate is not defined")
    order = np.argsort(-harm, kind="stable")
    ordered, hits = harm[order], np.concatenate([[0], np.cumsum(noisy[order])])
    # Between the ends of a run of ties the expected count grows linearly.
    ends = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [n]])
    found = np.interp(np.arange(n + 1), ends, hits[ends]) / total
    return NoiseDetection(np.arange(n + 1) / n, found, total)


def ideal_detection(n: int, noisy: int) -> NoiseDetection:
    """The curve of a score that puts all noise first."""
    inspected = np.arange(n + 1)
    return NoiseDetection(inspected / n, np.minimum(inspected / noisy, 1.0), noisy)


def random_detection(n: int, noisy: int) -> NoiseDetection:
    """The expected curve of a random order."""
    inspected = np.arange(n + 1) / n
    return NoiseDetection(inspected, inspected, noisy)
