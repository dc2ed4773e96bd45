"""Plants label noise at known rows, to measure how much of it is found."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from undertow.data.samples import Samples
from undertow.errors import ConfigError, DataError


@dataclass(frozen=True)
class Planted:
    """Samples with planted noise, where it is, and what the labels were.

    Attributes:
        samples: the rows with their noise.
        planted: True where noise is: a flipped label, corrupted words, a conflicting near-copy; shape [n].
        original_labels: the class indices that are right for these rows, shape [n].
    """

    samples: Samples
    planted: Bool[np.ndarray, " n"]
    original_labels: Int[np.ndarray, " n"]

    def select(self, positions: Int[np.ndarray, " m"]) -> "Planted":
        """The rows at these 0-based positions, in this order."""
        return Planted(self.samples.select(positions), self.planted[positions], self.original_labels[positions])


def plant_noise(samples: Samples, share: float, *, seed: int) -> Planted:
    """Flips ``round(share * n)`` labels, at least one, each to another class; rows and classes are uniform.

    Only classes that have rows are drawn, as a label that no other row has would give the noise away.

    Raises:
        ConfigError: ``share`` is not between 0 and 1.
        DataError: there is only one class.
    """
    if not 0 < share < 1:
        raise ConfigError(f"The share of labels to flip is {share}. It lies between 0 and 1, both excluded; try 0.2.")
    present = present_classes(samples)
    ranks = np.searchsorted(present, samples.labels)
    rng = np.random.default_rng(seed)
    flipped = rng.choice(len(samples), size=max(1, round(share * len(samples))), replace=False)
    steps = rng.integers(1, len(present), size=len(flipped))
    labels = samples.labels.copy()
    labels[flipped] = present[(ranks[flipped] + steps) % len(present)]
    planted = np.zeros(len(samples), dtype=bool)
    planted[flipped] = True
    return Planted(samples=samples.with_labels(labels), planted=planted, original_labels=samples.labels.copy())


def affected_rows(samples: Samples, rate: float) -> int:
    """``round(rate * n)`` rows, at least 1.

    Raises:
        ConfigError: ``rate`` is not between 0 and 1, or so small that it affects no row.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"The rate of noise is {rate}. It lies between 0 and 1, both excluded; try 0.2.")
    size = round(rate * len(samples))
    if size == 0:
        raise ConfigError(
            f"A rate of {rate} affects none of the {len(samples)} rows of {samples.source}. Raise it, or give more "
            "rows."
        )
    return size


def present_classes(samples: Samples) -> Int[np.ndarray, " m"]:
    """The classes that have rows, ascending, shape [m].

    Raises:
        DataError: there are fewer than two.
    """
    present = np.unique(samples.labels)
    if len(present) < 2:
        raise DataError(
            f"Noise cannot be planted in {samples.source}: its {len(samples)} rows have {len(present)} class. Another "
            "label needs at least two; give data with more than one class."
        )
    return present
