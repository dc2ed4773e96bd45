"""Label transitions: which true classes lie behind each given label, and what that says of every row."""

import numpy as np
from jaxtyping import Float, Int

# Part of every transition that is kept possible. Halved or doubled, only rows of transitions that no other row shows
# move.
POSSIBLE = 0.02
ITERATIONS = 500
_SETTLED = 1e-7


def class_shares(labels: Int[np.ndarray, " row"], classes: int) -> Float[np.ndarray, " class"]:
    """Share of each class among some rows, with one row added to each class."""
    counts = np.bincount(labels, minlength=classes) + 1
    result: np.ndarray = counts / counts.sum()
    return result


def transition_matrix(
    probabilities: Float[np.ndarray, "row class"],
    labels: Int[np.ndarray, " row"],
    prior: Float[np.ndarray, " class"],
) -> Float[np.ndarray, "given true"]:
    """Share of each true class among the rows of each given label, by expectation maximisation.

    For the rows of one given label it is the class prior that makes their texts most likely, where probabilities were
    calibrated under another prior (Saerens, Latinne and Decaestecker 2002; EMQ in quantification). Noise is taken to
    depend on the true class, not on the text: where wrong labels gather in ambiguous texts, their share comes out low.

    Args:
        probabilities: out-of-sample, calibrated under ``prior``.
        labels: given label of each row.
        prior: share of each class among the rows that calibrated the probabilities.
    """
    classes = probabilities.shape[1]
    ratio, found = probabilities / prior, np.eye(classes)
    for given in np.unique(labels):
        mine = ratio[labels == given]
        share = np.full(classes, 0.05 / max(classes - 1, 1))
        share[given] = 0.95
        for _ in range(ITERATIONS):
            joint = mine * share
            updated = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
            done = np.abs(updated - share).max() < _SETTLED
            share = updated
            if done:
                break
        found[given] = share
    result: np.ndarray = (found + POSSIBLE / classes) / (1 + POSSIBLE)
    return result


def true_classes(
    probabilities: Float[np.ndarray, "row class"],
    labels: Int[np.ndarray, " row"],
    prior: Float[np.ndarray, " class"],
    transitions: Float[np.ndarray, "given true"],
) -> Float[np.ndarray, "row class"]:
    """Posterior of the true class of each row, given its text and its label."""
    joint = probabilities / prior * transitions[labels]
    result: np.ndarray = joint / joint.sum(axis=1, keepdims=True)
    return result


def wrong_log_odds(
    posterior: Float[np.ndarray, "row class"], labels: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Log-odds that the given label is wrong."""
    own = np.clip(posterior[np.arange(len(labels)), labels], 1e-9, 1 - 1e-9)
    result: np.ndarray = np.log1p(-own) - np.log(own)
    return result


def likeliest_other(
    probabilities: Float[np.ndarray, "row class"], labels: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The most probable label of each row other than its own, and its part of the probability of all others."""
    rows = np.arange(len(labels))
    others = probabilities.astype(np.float64)
    others[rows, labels] = -1  # below a probability of 0: never the label itself
    found = others.argmax(axis=1)
    others[rows, labels] = 0
    return found, others[rows, found] / np.maximum(others.sum(axis=1), 1e-12)
