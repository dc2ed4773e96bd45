"""Intervals by resampling: percentile bootstrap over rows, seeded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

Statistic = Callable[[Int[np.ndarray, " n"]], float]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Statistic, n: int, *, strata: Shaped[np.ndarray, " n"] | None = None, times: int = 1000, seed: int = 0
) -> Interval:
    """Value of a statistic with its 95% percentile interval over resampled rows (Efron & Tibshirani 1993, ch. 13).

    Args:
        statistic: maps positions of rows [n], some drawn several times, to a number.
        n: number of rows.
        strata: class of each row; rows are then drawn within their class, so that its size is kept.
        times: number of resamples.
        seed: seed of the draws.

    Resamples on which the statistic is NaN, because it is not defined there, are left out; where it is NaN on
    all of them, the ends are NaN.
    """
    drawn = np.array([statistic(rows) for rows in resamples(n, strata=strata, times=times, seed=seed)])
    return percentiles(statistic(np.arange(n)), drawn)


def resamples(
    n: int, *, strata: Shaped[np.ndarray, " n"] | None = None, times: int = 1000, seed: int = 0
) -> Iterator[Int[np.ndarray, " n"]]:
    """Positions of rows drawn with replacement, [n] each; with ``strata`` within each class."""
    generator = np.random.default_rng(seed)
    groups = [np.arange(n)] if strata is None else [np.flatnonzero(strata == value) for value in np.unique(strata)]
    for _ in range(times):
        yield np.concatenate([group[generator.integers(0, len(group), len(group))] for group in groups])


def percentiles(value: float, drawn: Float[np.ndarray, " times"]) -> Interval:
    """A value with the 2.5% and 97.5% quantiles of what resamples gave; NaN among these is left out."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))
