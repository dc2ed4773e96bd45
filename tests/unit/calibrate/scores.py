"""Score vectors whose truth is known: bad rows and canaries are normal with mean ``apart``, the others with mean 0."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Made:
    """Harm of the rows that are not canaries, of the canaries, and which rows are bad."""

    rest: np.ndarray
    canaries: np.ndarray
    bad: np.ndarray


def made(rows: int, canaries: int, share: float, apart: float, *, seed: int) -> Made:
    """As on a user's data of two classes: a canary drawn on a bad row gets its true label."""
    random = np.random.default_rng(seed)
    bad = random.random(rows) < share
    righted = random.random(canaries) < share
    return Made(
        random.normal(size=rows) + apart * bad,
        random.normal(size=canaries) + apart * ~righted,
        bad,
    )


def choices(
    rows: int, canaries: int, aparts: list[float], *, seed: int, share: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Harm [choice, sample] of rest, canaries, twins and the positions of each; last which of the rest are bad."""
    random = np.random.default_rng(seed)
    bad = random.random(rows) < share
    mean = np.concatenate([bad, np.ones(canaries), random.random(canaries) < share]).astype(float)
    harm = np.stack([random.normal(size=len(mean)) + apart * mean for apart in aparts])
    rest, planted = np.arange(rows), np.arange(rows, rows + canaries)
    return harm, rest, planted, planted + canaries, bad
