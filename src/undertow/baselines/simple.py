"""Harm scores that need no influence: the loss and random order."""

import numpy as np
from jaxtyping import Float


def loss_harm(loss: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The loss of each sample under its given label: a sample the model disagrees with ranks high."""
    return loss.astype(np.float64)


def random_harm(samples: int, *, seed: int) -> Float[np.ndarray, " n"]:
    """Uniform random scores in [0, 1)."""
    return np.random.default_rng(seed).random(samples)
