"""Where noisy samples lie: among the quantiles of a harm score, and over its range."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from undertow.metrics.noise import noise_detection


def quantile_histogram(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"], *, bins: int = 10) -> pd.DataFrame:
    """Noisy and clean samples in each of ``bins`` equal shares of the samples, most harmful first.

    Columns start and stop (share of the samples, from 0 to 1), noisy and clean: expected counts, which are no whole
    numbers where ties or samples lie across a border. Random order has the same count of noisy samples in each.

    Raises:
        ValueError: when no sample is noisy, a harm is NaN, or there is no bin.
    """
    _check(bins)
    edges = np.linspace(0, 1, bins + 1)
    curve = noise_detection(harm, noisy)
    found = np.diff(np.interp(edges, curve.inspected, curve.found)) * curve.noisy
    return _table(edges, found, len(harm) / bins - found)


def range_histogram(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"], *, bins: int = 30) -> pd.DataFrame:
    """Noisy and clean samples in each of ``bins`` equal parts of the range of a harm score.

    Columns start and stop (harm, ascending; the last part includes its end), noisy and clean (counts). A constant
    harm spans one part of width 1 around it, as in `numpy.histogram`.

    Raises:
        ValueError: when a harm is not finite, or there is no bin.
    """
    _check(bins)
    if not np.isfinite(harm).all():
        raise ValueError(f"the harm of {int((~np.isfinite(harm)).sum())} of {len(harm)} samples is not finite")
    edges = np.histogram_bin_edges(harm, bins)
    counts = [np.histogram(harm[which], edges)[0] for which in (noisy, ~noisy)]
    return _table(edges, *counts)


def _table(edges: np.ndarray, noisy: np.ndarray, clean: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"start": edges[:-1], "stop": edges[1:], "noisy": noisy, "clean": clean})


def _check(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"a histogram has one bin at least, not {bins}")
