"""Accuracy with its interval, and the difference of two models on the same samples."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def accuracy(correct: Bool[np.ndarray, " n"]) -> Interval:
    """Share of correct predictions, with Wilson's interval."""
    result = binomtest(int(correct.sum()), len(correct))
    interval = result.proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(float(result.statistic), float(interval.low), float(interval.high))


def accuracy_difference(after: Bool[np.ndarray, " n"], before: Bool[np.ndarray, " n"]) -> Interval:
    """Accuracy after minus accuracy before on the same samples, with Wald's interval for paired shares."""
    n = len(after)
    gained, lost = int((after & ~before).sum()), int((~after & before).sum())
    difference = (gained - lost) / n
    error = 1.96 * np.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    return Interval(difference, float(difference - error), float(difference + error))
