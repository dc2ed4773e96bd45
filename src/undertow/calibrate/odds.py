"""Probabilities and log-odds."""

import numpy as np
from jaxtyping import Float


def log_odds(shares: Float[np.ndarray, " share"], edge: float = 1e-4) -> Float[np.ndarray, " share"]:
    """Natural logarithms of the odds of some shares, taken at least ``edge`` away from 0 and 1."""
    inside = np.clip(shares, edge, 1 - edge)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def with_mean(
    odds: Float[np.ndarray, " row"],
    reference: Float[np.ndarray, " other"],
    mean: float,
    weights: Float[np.ndarray, " other"] | None = None,
) -> Float[np.ndarray, " row"]:
    """Probabilities of log-odds moved by a constant, so that the mean of those of a reference is as given.

    Args:
        odds: to be moved.
        reference: log-odds whose probabilities have the mean.
        mean: from 0, which makes all of them 0, to below 1.
        weights: of the reference, of sum 1; alike by default.
    """
    if mean <= 0:
        return np.zeros(len(odds))
    by = np.full(len(reference), 1 / len(reference)) if weights is None else weights
    low, high = -60.0 - reference.max(), 60.0 - reference.min()
    for _ in range(50):
        middle = (low + high) / 2
        found = by @ (1 / (1 + np.exp(-np.clip(reference + middle, -500, 500))))
        low, high = (middle, high) if found < mean else (low, middle)
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(odds + middle, -500, 500)))
    return result
