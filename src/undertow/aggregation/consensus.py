"""Weights that modules give each other."""

import numpy as np
from jaxtyping import Float

# Differences below this share of the largest eigenvalue are rounding.
_TINY = 1e-9


def consensus_weights(scores: Float[np.ndarray, "module sample"]) -> Float[np.ndarray, " module"]:
    """What each module weighs, by how well its scores agree with those of the others; they sum to their number.

    The spectral meta-learner of Parisi et al. 2014, "Ranking and combining multiple predictors without labeled data":
    where modules err independently of each other, the covariance of their scores is, off its diagonal, λ v vᵀ, and v is
    the larger the more a module knows. v is the eigenvector of the largest eigenvalue of the covariance with a zero
    diagonal, turned so that it sums to more than 0: on the whole, modules know more than nothing. A module that
    contradicts the others (v < 0) weighs nothing. Where no single direction stands out, all weigh the same.
    """
    count = len(scores)
    centred = scores - scores.mean(axis=1, keepdims=True)
    shared = centred @ centred.T / scores.shape[1]
    noise = _TINY * max(float(np.diag(shared).max()), 0.0)
    np.fill_diagonal(shared, 0)
    values, vectors = np.linalg.eigh(shared)
    gap = values[-1] - (values[-2] if count > 1 else 0)
    leading = vectors[:, -1] * np.sign(vectors[:, -1].sum())
    if gap <= noise or abs(leading.sum()) <= _TINY:
        return np.ones(count)
    kept: np.ndarray = np.maximum(leading, 0)
    kept *= count / kept.sum()
    return kept
