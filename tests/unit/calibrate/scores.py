"""Score vectors whose truth is known: bad rows and canaries are normal with mean ``apart``, the others with mean 0."""

from dataclasses import dataclass

import numpy as np

from undertow.calibrate.told import Told


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


@dataclass(frozen=True)
class Modelled:
    """What a model says of rest, canaries and trusted rows, and which of the rest are bad."""

    rest: Told
    canaries: Told
    trusted: Told
    bad: np.ndarray


def modelled(
    share: float,
    *,
    seed: int,
    rows: int = 1200,
    canaries: int = 100,
    classes: int = 2,
    memory: float = 0.25,
    sure: float = 3.0,
    timid: float = 1.0,
    lean: float = 0.0,
    of_first: float = 1.0,
    first_kept: float = 1.0,
) -> Modelled:
    """A model that is right as often as it says, but for what it remembers, and says it more timidly than that.

    It leans towards the last class by so much log-odds. Rows of the first class are flipped so many times as often as
    the others, and only that part of them is in the training data.
    """
    random = np.random.default_rng(seed)

    def rows_of(count: int) -> tuple[np.ndarray, np.ndarray]:
        logits = sure * random.normal(size=(count, classes)) / np.sqrt(2)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return logits, (random.random(count)[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)

    def other(labels: np.ndarray) -> np.ndarray:
        return (labels + random.integers(1, classes, size=len(labels))) % classes

    def told(logits: np.ndarray, labels: np.ndarray, remembered: float, taught: np.ndarray | None = None) -> Told:
        learned = labels if taught is None else taught
        base, own = logits / timid + lean * (np.arange(classes) == classes - 1), np.eye(classes)[learned]
        p = np.full(base.shape, 1 / classes)
        for _ in range(60):  # what training on the row adds depends on where it ends
            z = base + remembered / timid * (own - p)
            p = 0.5 * p + 0.5 * np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return Told(p, labels, taught)

    logits, true = rows_of(rows + canaries)
    if first_kept < 1:
        more, labels = rows_of(4 * len(true))
        kept = np.flatnonzero((labels != 0) | (random.random(len(labels)) < first_kept))[: rows + canaries]
        logits, true = more[kept], labels[kept]
    often = np.where(true == 0, of_first, 1.0)
    bad = random.random(rows + canaries) < share * often / often.mean()
    given = np.where(bad, other(true), true)
    planted = other(given[rows:])
    held_out, trusted = rows_of(800)
    return Modelled(
        told(logits[:rows], given[:rows], memory),
        told(logits[rows:], given[rows:], memory, planted),
        told(held_out, trusted, 0.0),
        bad[:rows],
    )
