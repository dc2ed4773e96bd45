"""Ranks within rows of influence, the step that most aggregations share."""

import sys

import numpy as np
from jaxtyping import Float, Integer, UInt64

# Where the low half of a 64-bit integer lies in memory, counted in halves.
_LOW = 0 if sys.byteorder == "little" else 1


def ranks(influence: Float[np.ndarray, "row sample"]) -> Integer[np.ndarray, "row sample"]:
    """r = number of samples y of the row with I[y] < I[x]: 0-based, strict, so ties share a rank.

    In the smallest integers that hold them: uint16 up to 65,536 samples, int32 above.
    """
    rows, n = influence.shape
    kind = np.uint16 if n <= 1 << 16 else np.int32
    result = np.empty((rows, n), dtype=kind)
    if n == 0:
        return result
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


def _order(
    influence: Float[np.ndarray, "row sample"],
) -> tuple[Integer[np.ndarray, "row sample"], np.ndarray]:
    """Positions of each row in ascending order, and whether each but the first equals the one before it."""
    if influence.dtype == np.float32:
        keys = _keys(influence)
        keys.sort(axis=1)
        halves = keys.view(np.uint32)
        high = halves[:, 1 - _LOW :: 2]
        return halves[:, _LOW::2], high[:, 1:] == high[:, :-1]
    order = np.argsort(influence, axis=1)
    ordered = np.take_along_axis(influence, order, axis=1)
    return order, ordered[:, 1:] == ordered[:, :-1]


def _keys(influence: Float[np.ndarray, "row sample"]) -> UInt64[np.ndarray, "row sample"]:
    """Value and position of each sample in one integer, which sorts several times as fast as indices do.

    The bits of a float sort as integers once negative ones are inverted and positive ones have their sign bit set.
    """
    bits = (influence + np.float32(0)).view(np.uint32)  # -0 becomes 0, which it equals
    flip = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    keys = np.empty(influence.shape, dtype=np.uint64)
    halves = keys.view(np.uint32)
    np.bitwise_xor(bits, flip, out=halves[:, 1 - _LOW :: 2])
    halves[:, _LOW::2] = np.arange(influence.shape[1], dtype=np.uint32)
    return keys
