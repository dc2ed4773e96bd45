"""Canaries: rows of the user's that get a wrong label before training, so that scores can be held against them."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from undertow.errors import ConfigError

# Fewer than these do not tell good scores from bad ones.
FEWEST = 50
# No more of the rows than this are given a wrong label, whatever is asked for.
MOST = 0.1


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


def draw_canaries(labels: Int[np.ndarray, " row"], count: int, *, seed: int) -> Canaries:
    """Draw rows from each class in proportion, and for each a label other than its own, uniform over the others.

    Only classes that have rows are given: a label that no other row has would give a canary away.

    Args:
        labels: class index of each row, as the user gave it.
        count: number of canaries, as `canary_count` says.
        seed: draws rows and labels.

    Raises:
        ConfigError: when there are fewer rows than canaries, or only one class.
    """
    present, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2 or not 0 < count <= len(labels):
        raise ConfigError(
            f"{count} canaries cannot be drawn from {len(labels)} rows of {len(present)} classes. They need two "
            "classes, and as many rows. Pass --no-calibrate to do without."
        )
    random = np.random.default_rng(seed)
    quotas, rests = np.divmod(sizes * count, len(labels))
    quotas[np.argsort(-rests, kind="stable")[: count - quotas.sum()]] += 1
    drawn = [random.permutation(np.flatnonzero(own == c))[:quota] for c, quota in enumerate(quotas)]
    positions = np.sort(np.concatenate(drawn))
    steps = random.integers(1, len(present), size=count)
    return Canaries(positions, present[(own[positions] + steps) % len(present)])
