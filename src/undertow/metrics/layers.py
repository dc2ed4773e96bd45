"""Noise rank: where noisy samples stand among the others, module by module and layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from undertow.metrics.noise import auroc

# Numbers of a block [query, sample] that is ranked at once: about 100 MB with its copies.
_BLOCK = 4_000_000


def normalised_ranks(influence: Float[np.ndarray, "query sample"]) -> Float[np.ndarray, " sample"]:
    """Mean over the queries of r / (n - 1): 0 = the most detrimental for every query, 1 = the most helpful.

    r is the number of samples with lower influence on the query, and half a sample for each that ties with it: the
    mean rank under random order of the ties, so that the mean over the samples is 1/2 whatever the ties. (Rank
    aggregation counts no ties; there only the order of the totals matters.)

    Raises:
        ValueError: when there is no query or fewer than two samples.
    """
    queries, n = influence.shape
    if queries < 1 or n < 2:
        raise ValueError(f"ranks need a query and two samples at least, not {queries} and {n}")
    step, total = max(1, _BLOCK // n), np.zeros(n)
    for start in range(0, queries, step):
        total += (rankdata(influence[start : start + step], axis=1) - 1).sum(axis=0)
    mean: np.ndarray = total / (queries * (n - 1))
    return mean


def by_group(ranks: pd.DataFrame, groups: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Mean normalised rank of each sample over the modules of each group, [n x groups].

    Args:
        ranks: normalised ranks, a row a sample and a column a module.
        groups: name to positions of columns.
    """
    return pd.DataFrame({name: ranks.iloc[:, list(positions)].mean(axis=1) for name, positions in groups.items()})


def noise_ranks(ranks: pd.DataFrame, noisy: Bool[np.ndarray, " n"], *, top: float = 0.3) -> pd.DataFrame:
    """Mean normalised rank of noisy against clean samples, a row for each column (module or layer) of ``ranks``.

    Columns: noisy, clean, mean (over all samples), top (over the ``top`` share of the noisy samples that rank
    lowest in this column, one at least), difference (noisy - clean; the further below 0, the better noise shows), and
    auroc (how often a noisy sample ranks below a clean one).

    Raises:
        ValueError: when no sample is noisy, none is clean, or ``top`` is outside (0, 1].
    """
    if not noisy.any() or noisy.all():
        raise ValueError(f"{int(noisy.sum())} of {len(noisy)} samples are noisy; noise ranks compare noisy with clean")
    if not 0 < top <= 1:
        raise ValueError(f"top is a share of the noisy samples above 0 and up to 1, not {top:g}")
    values = ranks.to_numpy(np.float64)
    of_noisy = np.sort(values[noisy], axis=0)
    lowest = of_noisy[: max(1, round(top * len(of_noisy)))]
    table = pd.DataFrame(
        {
            "noisy": of_noisy.mean(0),
            "clean": values[~noisy].mean(0),
            "mean": values.mean(0),
            "top": lowest.mean(0),
        },
        index=ranks.columns,
    )
    table["difference"] = table["noisy"] - table["clean"]
    table["auroc"] = [auroc(-column, noisy) for column in values.T]
    return table
