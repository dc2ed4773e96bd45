"""Harm from training dynamics: the area under the margin, and forgetting."""

import numpy as np
from jaxtyping import Float


def aum_harm(margins: Float[np.ndarray, "epochs n"]) -> Float[np.ndarray, " n"]:
    """Minus the area under the margin: -(1/E) sum_e (z_y - max_{c != y} z_c), z the logits of epoch e.

    Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking". Their indicator
    classes, which choose a threshold, are not part of the score.

    Args:
        margins: margin of the logits under the given label, for each epoch, as the batch was trained on.
    """
    harm: np.ndarray = -margins.mean(axis=0, dtype=np.float64)
    return harm


def forgetting_harm(margins: Float[np.ndarray, "epochs n"]) -> Float[np.ndarray, " n"]:
    """Number of forgetting events: epochs in which the sample is wrong and was right in the epoch before.

    Toneva et al. 2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning". A
    sample is right where its margin is above 0. One that is right in no epoch was never learned, which they
    count as infinitely many events: here it gets E, the number of epochs, and no count can reach that since
    each event takes two epochs.
    """
    right = margins > 0
    events: np.ndarray = (right[:-1] & ~right[1:]).sum(axis=0)
    return np.where(right.any(axis=0), events, len(margins)).astype(np.float64)
