"""Does a proxy that costs nothing (NDR, AUC-NDR, cancellation) order configurations as the outcome does?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from undertow.metrics.intervals import Interval, percentiles, resamples


@dataclass(frozen=True)
class ProxyCorrelation:
    """Spearman correlation of a proxy with an outcome.

    Attributes:
        within: mean over the blocks of the correlation over the configurations of each.
        overall: correlation over all configurations of all blocks together; it mixes what differs between
            configurations with what differs between tasks.
        by_block: correlation within each block; NaN where proxy or outcome is the same for all configurations.
    """

    within: Interval
    overall: Interval
    by_block: pd.Series


def proxy_correlation(
    proxy: pd.DataFrame, outcome: pd.DataFrame, *, times: int = 1000, seed: int = 0
) -> ProxyCorrelation:
    """Spearman correlation of a proxy with an outcome, within blocks and overall, over resampled blocks.

    Args:
        proxy: a row a block (a task with a seed), a column a configuration.
        outcome: the same rows and columns, in any order.
        times: resamples of the blocks.
        seed: seed of the resamples.

    Blocks whose correlation is NaN are left out of the mean.

    Raises:
        ValueError: when rows or columns differ, a cell is empty, or there are fewer than two configurations.
    """
    if set(proxy.index) != set(outcome.index) or set(proxy.columns) != set(outcome.columns):
        raise ValueError("proxy and outcome must have the same blocks and the same configurations")
    if proxy.shape[1] < 2:
        raise ValueError(f"a correlation needs two configurations at least, not {proxy.shape[1]}")
    x, y = (f.loc[proxy.index, proxy.columns].to_numpy(np.float64) for f in (proxy, outcome))
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("proxy and outcome must have no empty cell")
    by_block = np.array([spearman(a, b) for a, b in zip(x, y, strict=True)])
    drawn = list(resamples(len(x), times=times, seed=seed))
    within = np.array([_mean(by_block[rows]) for rows in drawn])
    overall = np.array([spearman(x[rows].ravel(), y[rows].ravel()) for rows in drawn])
    return ProxyCorrelation(
        percentiles(_mean(by_block), within),
        percentiles(spearman(x.ravel(), y.ravel()), overall),
        pd.Series(by_block, proxy.index),
    )


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Correlation of the ranks, ties averaged; NaN where one side is constant."""
    if (a == a[0]).all() or (b == b[0]).all():
        return np.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _mean(values: Float[np.ndarray, " n"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan
