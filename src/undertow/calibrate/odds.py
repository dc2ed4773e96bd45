"""Probabilities and log-odds."""

import numpy as np
from jaxtyping import Float


def log_odds(shares: Float[np.ndarray, " share"], edge: float = 1e-4) -> Float[np.ndarray, " share"]:
    """Natural logarithms of the odds of some shares, taken at least ``edge`` away from 0 and 1."""
    inside = np.clip(shares, edge, 1 - edge)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def probabilities(odds: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `log_odds`."""
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
    return result


def shift_to_mean(
    odds: Float[np.ndarray, " row"], mean: float, weights: Float[np.ndarray, " row"] | None = None
) -> float:
    """The constant that moves log-odds so that the mean of their probabilities is as given.

    Args:
        odds: natural logarithms.
        mean: above 0 and below 1.
        weights: of the rows, of sum 1; alike by default.
    """
    from scipy.optimize import brentq

    by = np.full(len(odds), 1 / len(odds)) if weights is None else weights
    return float(
        brentq(lambda shift: by @ probabilities(odds + shift) - mean, -60.0 - odds.max(), 60.0 - odds.min(), xtol=1e-13)
    )


def shifts_to_mean(
    odds: Float[np.ndarray, "case row"], mean: float, weights: Float[np.ndarray, " row"] | None = None
) -> Float[np.ndarray, " case"]:
    """`shift_to_mean` of many cases at once.

    Args:
        odds: natural logarithms.
        mean: above 0 and below 1, of each case.
        weights: of the rows, of sum 1; alike by default.
    """
    from scipy.optimize.elementwise import find_root

    by = np.full(odds.shape[1], 1 / odds.shape[1]) if weights is None else weights

    def off(shift: np.ndarray, case: np.ndarray) -> np.ndarray:
        result: np.ndarray = probabilities(odds[case] + shift[:, None]) @ by - mean
        return result

    ends = (-60.0 - odds.max(axis=1), 60.0 - odds.min(axis=1))
    result: np.ndarray = find_root(off, ends, args=(np.arange(len(odds)),)).x
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
    return np.zeros(len(odds)) if mean <= 0 else probabilities(odds + shift_to_mean(reference, mean, weights))
