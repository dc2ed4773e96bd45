"""From harm to a decision: rank the samples and flag the worst share."""

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.errors import ConfigError


def check_cut(share: int | float) -> None:
    """Refuse a cut that is no share.

    Raises:
        ConfigError: says what is accepted.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--cut {share:g} is outside its range. It is a share of the rows, between 0 and 1.")


def harm_ranks(harm: Float[np.ndarray, " n"], *, seed: int) -> Int[np.ndarray, " n"]:
    """Rank of each sample, 1 = most harmful; ties are broken by a seeded shuffle, never by row order."""
    shuffled = np.random.default_rng(seed).permutation(len(harm))
    order = np.lexsort((shuffled, -harm))
    result = np.empty(len(harm), dtype=np.int64)
    result[order] = np.arange(1, len(harm) + 1)
    return result


def flag(ranks: Int[np.ndarray, " n"], share: int | float) -> Bool[np.ndarray, " n"]:
    """The ``share`` (0..1) of the samples with the lowest ranks, rounded to whole samples."""
    return ranks <= round(share * len(ranks))
