"""Directions of vectors, with one rule for those that have none."""

import numpy as np
from jaxtyping import Float


def unit_rows(vectors: Float[np.ndarray, "n h"]) -> Float[np.ndarray, "n h"]:
    """Each row divided by its length, in float64. A zero row stays zero, so its cosine with anything is 0."""
    wide = vectors.astype(np.float64)
    # By the largest entry first: squares of very small or very large entries would leave the range of floats.
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    wide /= np.where(largest > 0, largest, 1.0)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    wide /= np.where(lengths > 0, lengths, 1.0)
    return wide
