"""Canaries: rows of the user's that get a wrong label before training, as errors on this data are likely to look.

Learning from positive and unlabelled rows calls them spies (Liu et al. 2002).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.errors import ConfigError

# Fewer than these do not tell good scores from bad ones.
FEWEST = 50
# No more of the rows than this are given a wrong label, whatever is asked for.
MOST = 0.1
# Share of all labels that every transition gets beside what is estimated. Doubled, canaries of clean data stay as they
# are; halved, rare transitions get a canary less.
SPREAD = 0.002
# Power of the probability of the wrong label: 0 draws texts evenly, 1 as often as the probes believe the wrong label.
HARDNESS = 0.5


@dataclass(frozen=True)
class Canaries:
    """Rows that get a wrong label.

    Attributes:
        positions: 0-based, ascending.
        labels: the class index that each gets instead of its own.
    """

    positions: Int[np.ndarray, " canary"]
    labels: Int[np.ndarray, " canary"]

    def __len__(self) -> int:
        """The number of canaries."""
        return len(self.positions)

    def taught(self, labels: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """The labels to train on: those of the rows, wrong at the canaries."""
        wrong = labels.copy()
        wrong[self.positions] = self.labels
        return wrong


def canary_count(rows: int, share: int | float) -> int:
    """How many canaries a number of rows gets: the share, but 50 at least; 0 where 50 are over a tenth of the rows.

    Raises:
        ConfigError: when the share is not above 0 and at most 0.1.
    """
    if not 0 < share <= MOST:
        raise ConfigError(
            f"--canaries {share:g} is outside its range. It is the share of the rows that gets a wrong label for "
            f"calibration: above 0, at most {MOST:g}."
        )
    wanted = max(FEWEST, round(share * rows))
    return wanted if wanted <= math.floor(MOST * rows) else 0


def draw_canaries(
    probabilities: Float[np.ndarray, "row class"],
    posterior: Float[np.ndarray, "row class"],
    labels: Int[np.ndarray, " row"],
    count: int,
    *,
    seed: int,
) -> Canaries:
    """Draw rows and wrong labels by the estimated label transitions, likelier in texts that are hard to tell.

    A row of label k gets label j with a weight that is the product of the probability that the label k is right, the
    estimated share of given label j among the rows of true class k (and `SPREAD`), and the square root of the
    probability of j given the text. Only labels that rows carry are given.

    Args:
        probabilities: of each class given the text, out of sample.
        posterior: of the true class given text and label.
        labels: class index of each row, as the user gave it.
        count: number of canaries, as `canary_count` says.
        seed: draws rows and labels.

    Raises:
        ConfigError: when there are fewer rows than canaries, or only one class.
    """
    n, classes = probabilities.shape
    present = np.bincount(labels, minlength=classes) > 0
    if present.sum() < 2 or not 0 < count <= n:
        raise ConfigError(
            f"{count} canaries cannot be drawn from {n} rows of {present.sum()} classes. They need two classes, and as "
            "many rows. Pass --no-calibrate to do without."
        )
    joint = np.stack([posterior[labels == given].sum(axis=0) for given in range(classes)]) + SPREAD * n
    rate = joint / joint.sum(axis=0)  # of given labels, by true class
    weight = rate.T[labels] * np.maximum(probabilities, 0.01) ** HARDNESS
    weight[np.arange(n), labels] = 0
    weight[:, ~present] = 0
    weight *= posterior[np.arange(n), labels][:, None]
    random = np.random.default_rng(seed)
    # Exponential clocks: a draw without replacement in which no weight can be used up.
    clocks = random.exponential(size=n) / np.maximum(weight.sum(axis=1), 1e-300)
    positions = np.sort(np.argsort(clocks, kind="stable")[:count])
    chances = weight[positions] / weight[positions].sum(axis=1, keepdims=True)
    drawn = (random.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
    return Canaries(positions, np.minimum(drawn, classes - 1))
