"""Harm from what the fine-tuned model predicts: the margin and the entropy of its probabilities."""

import numpy as np
from jaxtyping import Float, Int

from undertow.errors import DataError


def margin_harm(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """max_{c != y} p_c - p_y, in [-1, 1]: above 0 the model prefers another class.

    Raises:
        DataError: where there is one class only.
    """
    if probabilities.shape[1] < 2:
        raise DataError("The margin needs the probabilities of at least two classes, and one came.")
    wide = probabilities.astype(np.float64)
    rows = np.arange(len(labels))
    given = wide[rows, labels]
    wide[rows, labels] = -np.inf
    harm: np.ndarray = wide.max(axis=1) - given
    return harm


def entropy_harm(probabilities: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " n"]:
    """-sum_c p_c ln p_c in nats, with 0 ln 0 = 0.

    It ignores the label: it finds samples that the model is unsure of, and puts a wrong label that the model
    is sure about, either way, last.
    """
    wide = probabilities.astype(np.float64)
    logs = np.log(wide, out=np.zeros_like(wide), where=wide > 0)
    # + 0.0: minus a sum of zeros would print as -0.
    harm: np.ndarray = -(wide * logs).sum(axis=1) + 0.0
    return harm
