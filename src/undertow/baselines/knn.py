"""Disagreement of a sample's label with those of its nearest neighbours."""

import numpy as np
from jaxtyping import Float, Int

from undertow.baselines.cosine import unit_rows
from undertow.errors import ConfigError, DataError

# Numbers held of the similarities at a time, 8 bytes each.
BLOCK = 4_000_000
# Similarities closer than this are equal: a matrix product rounds one value differently by its place.
_GRID = 2.0**-30
# Weight of the second criterion: below what one neighbour changes in the first.
_SECOND = 1e-6


def knn_harm(
    states: Float[np.ndarray, "n h"],
    labels: Int[np.ndarray, " n"],
    *,
    k: int = 10,
    block: int = BLOCK,
) -> Float[np.ndarray, " n"]:
    """Share of the k nearest neighbours by cosine, the sample itself left out, whose label differs; in [0, 1].

    Where several samples tie for the last of the k places, each takes an equal part of what is left, so the
    order of the samples does not matter. Shares of k tie often: among samples of equal share, that with the
    larger similarity-weighted share (weights (1 + cosine) / 2) ranks higher. With share s and weighted share
    w, harm = (s + 1e-6 w) / (1 + 1e-6): what one whole neighbour changes is never overruled.

    Memory is bounded by ``block`` similarities at a time; the result does not depend on it. With fewer than
    k other samples, all others are neighbours. Zero states have cosine 0 with everything.

    Raises:
        ConfigError: k is below 1.
        DataError: there is only one sample.
    """
    n = len(states)
    if k < 1:
        raise ConfigError(f"The number of neighbours is {k}. It is at least 1; 10 is usual.")
    if n < 2:
        raise DataError(f"Neighbours need at least two samples, and {n} came.")
    units = unit_rows(states)
    harm = np.empty(n)
    rows = max(1, block // n)
    for start in range(0, n, rows):
        some = slice(start, min(start + rows, n))
        similarity = np.rint(units[some] @ units.T / _GRID) * _GRID
        here = np.arange(some.start, some.stop)
        similarity[here - start, here] = -np.inf
        harm[some] = _disagreement(similarity, labels[some, None] != labels, min(k, n - 1))
    return harm


def _disagreement(similarity: np.ndarray, differs: np.ndarray, k: int) -> np.ndarray:
    last = np.partition(similarity, -k, axis=1)[:, -k, None]
    places, tied = similarity > last, similarity == last
    left = k - places.sum(axis=1, keepdims=True)
    weights = places + tied * (left / tied.sum(axis=1, keepdims=True))
    share = (weights * differs).sum(axis=1) / k
    weights *= np.maximum(1 + np.where(np.isfinite(similarity), similarity, -1.0), 0.0) / 2
    total = weights.sum(axis=1)
    weighted = np.divide((weights * differs).sum(axis=1), total, out=share.copy(), where=total > 0)
    result: np.ndarray = (share + _SECOND * weighted) / (1 + _SECOND)
    return result
