"""A linear probe: what each row looks like to a classifier on given states that did not learn from this row."""

import numpy as np
from jaxtyping import Float, Int

from undertow.errors import DataError

# Strengths of the penalty that are tried, as parts of the total weight of the rows.
PENALTIES = np.geomspace(0.003, 100, 16)
# Scores are halves of differences of two classes: twice a score is a log-odds of about the right size.
SCALE = 2.0


def probe_probabilities(
    states: Float[np.ndarray, "n h"],
    labels: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    classes: int,
) -> Float[np.ndarray, "n class"]:
    """Probability of each class for each row, by a probe that learned from all other rows.

    Ridge regression of one target a class (1 for the label, -1 for the others) on the states, scaled to a deviation
    of 1, with an intercept that is not penalised. The score of a row by the regression on all rows but it is

        (f - l y) / (1 - l),

    f its score with it, y its target and l its leverage (Allen 1974), so nothing is fitted twice. Of `PENALTIES` the
    one whose held-out squared error is least is taken. Probabilities are the softmax of twice the scores; they are
    not calibrated.

    Args:
        states: of each row.
        labels: class index of each row, the one to learn from.
        weights: of each row's squared error, each above 0.
        classes: number of classes.

    Raises:
        DataError: when there are fewer than two rows, or states that are no numbers.
    """
    from scipy.special import softmax

    if len(states) < 2:
        raise DataError(f"A probe learns from other rows, and {len(states)} came. It needs two or more.")
    if not np.isfinite(states).all():
        raise DataError(
            "Some hidden states are not finite, so no probe can learn from them. Check the model's weights."
        )
    total = weights.sum()
    centred = states.astype(np.float64)
    centred -= weights @ centred / total
    centred /= np.maximum(np.sqrt(weights @ centred**2 / total), 1e-9)
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    mean = weights @ targets / total
    values, axes = np.linalg.eigh(centred.T @ (weights[:, None] * centred))
    along = centred @ axes
    pull = along.T @ (weights[:, None] * (targets - mean))
    best, scores = np.inf, targets
    for penalty in PENALTIES * total:
        shrunk = 1 / (np.maximum(values, 0) + penalty)
        leverage = (weights * (along**2 @ shrunk) + weights / total)[:, None]
        held_out = (mean + along @ (shrunk[:, None] * pull) - leverage * targets) / (1 - leverage)
        error = float(weights @ ((held_out - targets) ** 2).sum(axis=1))
        if error < best:
            best, scores = error, held_out
    result: np.ndarray = softmax(SCALE * scores, axis=1)
    return result


def balanced(labels: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Weights of mean 1 with which the rows of each label that occurs weigh the same together."""
    present, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    result: np.ndarray = (len(labels) / (len(present) * counts))[own]
    return result
