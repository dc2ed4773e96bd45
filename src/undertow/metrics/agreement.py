"""How far harm scores order the samples alike: layers, estimators, seeds."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

Correlation = Literal["spearman", "kendall"]


def agreement(
    harms: pd.DataFrame | Mapping[str, Float[np.ndarray, " n"]],
    *,
    how: Correlation = "spearman",
    rows: Bool[np.ndarray, " n"] | None = None,
) -> pd.DataFrame:
    """Rank correlation of every harm vector with every other, a square frame from -1 to 1.

    Args:
        harms: one column or entry a vector, all over the same samples.
        how: spearman (correlation of the ranks, ties averaged) or kendall (tau-b).
        rows: which samples count, for instance the noisy ones; None for all.

    A constant vector has no order: its correlations are NaN.

    Raises:
        ValueError: for another ``how``, a NaN among the harms, or fewer than two samples.
    """
    if how not in ("spearman", "kendall"):
        raise ValueError(f"how is spearman or kendall, not {how!r}")
    frame = pd.DataFrame(harms).reset_index(drop=True)
    chosen = frame if rows is None else frame.loc[rows]
    if chosen.isna().any(axis=None):
        raise ValueError(f"harms of {', '.join(map(str, chosen.columns[chosen.isna().any()]))} hold NaN")
    if len(chosen) < 2:
        raise ValueError(f"a correlation needs two samples at least, not {len(chosen)}")
    return chosen.astype(np.float64).corr(method=how)
