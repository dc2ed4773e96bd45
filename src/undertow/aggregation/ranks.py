"""Ranks within rows of influence, the step that most aggregations share."""

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

_HALF = 32


def ranks(influence: Float[np.ndarray, "row sample"]) -> Integer[np.ndarray, "row sample"]:
    """r = number of samples y of the row with I[y] < I[x]: 0-based, strict, so ties share a rank.

    In the smallest integers that hold them: uint16 up to 65,536 samples, int32 above.
    """
    rows, n = influence.shape
    kind = np.uint16 if n <= 1 << 16 else np.int32
    result = np.empty((rows, n), dtype=kind)
    order, tied = _order(influence)
    place = np.arange(n, dtype=kind)
    for i in range(rows):
        if tied[i].any():
            first = np.zeros(n, dtype=kind)
            np.copyto(first[1:], place[1:], where=~tied[i])
            result[i][order[i]] = np.maximum.accumulate(first)
        else:
            result[i][order[i]] = place
    return result


def ranks_among(influence: Float[np.ndarray, "row sample"], among: int) -> Integer[np.ndarray, "row sample"]:
    """r = number of the first ``among`` samples y of the row with I[y] < I[x], for all samples x of the row."""
    if among == influence.shape[1]:
        return ranks(influence)
    own = np.ascontiguousarray(influence[:, :among])
    kind = np.uint16 if among < 1 << 16 else np.int32
    result = np.empty(influence.shape, dtype=kind)
    result[:, :among] = ranks(own)
    own.sort(axis=1)
    for i, values in enumerate(influence[:, among:]):
        result[i, among:] = np.searchsorted(own[i], values, side="left")
    return result


def places(ranks: Integer[np.ndarray, "row sample"]) -> Integer[np.ndarray, "row sample"]:
    """Number of samples y of the row with I[y] <= I[x], 1 to n, from the ranks: r + 1 where nothing ties."""
    rows, n = ranks.shape
    result = np.empty((rows, n), dtype=np.uint16 if n < 1 << 16 else np.int32)
    for i in range(rows):
        result[i] = np.cumsum(np.bincount(ranks[i], minlength=n))[ranks[i]]
    return result


def _order(
    influence: Float[np.ndarray, "row sample"],
) -> tuple[Integer[np.ndarray, "row sample"], Bool[np.ndarray, "row rest"]]:
    """Positions of each row in ascending order, and whether each but the first equals the one before it."""
    if influence.dtype == np.float32:
        keys = _keys(influence)
        keys.sort(axis=1)
        values = keys >> _HALF
        return keys & ((1 << _HALF) - 1), values[:, 1:] == values[:, :-1]
    order = np.argsort(influence, axis=1)
    ordered = np.take_along_axis(influence, order, axis=1)
    return order, ordered[:, 1:] == ordered[:, :-1]


def _keys(influence: Float[np.ndarray, "row sample"]) -> Int64[np.ndarray, "row sample"]:
    """Value and position of each sample in one integer: sorting these is several times as fast as argsort.

    The bits of a float, read as an integer, are in the order of the floats once those of negative ones are inverted.
    """
    bits = (influence + np.float32(0)).view(np.int32)  # -0 becomes 0, which it equals
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys <<= _HALF
    keys |= np.arange(influence.shape[1])
    return keys
