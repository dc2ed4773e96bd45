"""The share of wrong labels, from what the trained model thinks of them.

Trusted rows, which the model was not trained on, say how often it is right at each confidence. Rows of the training
data carry their label with the probability

    P(given label) = (1 - share) p + share (1 - p) / (classes - 1),

p the model's probability of that label, corrected twice: by a temperature, so that it is right of the trusted rows;
and by what training on the very row added to its own label, which is taken off again (`forgotten`). How much that is,
canaries tell: their labels are known to be other than the given ones, so that they tell of the same share from the
other side, and training pulls the two answers apart.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Strengths of memory that are tried, and what is expected of it before canaries are asked: mean and deviation.
MEMORY = np.linspace(0.0, 1.2, 25)
EXPECTED, SPREAD = 0.3, 0.1
# Probabilities are kept this far from 0 and 1: no model is as sure as that.
SURE = 1e-4
# Shares that are tried.
SHARES = np.concatenate([np.linspace(0, 0.1, 41), np.linspace(0.105, 0.7, 120)])
# Rows that resamples draw from: more say no more.
ENOUGH = 4000


@dataclass(frozen=True)
class Told:
    """What a model says of rows.

    Attributes:
        probabilities: of each class.
        labels: the label that each row carries.
    """

    probabilities: Float[np.ndarray, "row class"]
    labels: Int[np.ndarray, " row"]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def take(self, rows: Int[np.ndarray, " some"]) -> "Told":
        """Some of the rows."""
        return Told(self.probabilities[rows], self.labels[rows])


@dataclass(frozen=True)
class Share:
    """Share of the rows whose label is wrong.

    Attributes:
        value: the estimate.
        low: lower end of its 95% interval.
        high: upper end.
        memory: strength of what training added to the own label of a row.
        temperature: power that probabilities are raised to.
    """

    value: float
    low: float
    high: float
    memory: float
    temperature: float


def estimate_share(rest: Told, canaries: Told, trusted: Told, *, times: int = 200, seed: int = 0) -> Share:
    """The share of wrong labels among the rest, with an interval over rows, canaries and trusted rows.

    Wrong labels are taken to be spread over rows and classes evenly, as those of canaries are.

    Args:
        rest: rows that are not canaries, with their labels.
        canaries: canaries with the labels they were trained with, each other than the row's own.
        trusted: rows that the model was not trained on, with labels to be trusted.
        times: resamples.
        seed: of the resamples.
    """
    random = np.random.default_rng(seed)
    temperature, memory, value = _solve(rest, canaries, trusted, EXPECTED)
    if len(rest) > ENOUGH:  # resampled at their own size below: the interval is that of as many
        rest = rest.take(random.choice(len(rest), ENOUGH, replace=False))
    drawn = []
    for _ in range(times):
        ours, theirs, known = (p.take(random.integers(0, len(p), len(p))) for p in (rest, canaries, trusted))
        drawn.append(_solve(ours, theirs, known, random.normal(EXPECTED, SPREAD))[2])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Share(value, float(min(low, value)), float(max(high, value)), memory, temperature)


def doubts(told: Told, share: Share) -> Float[np.ndarray, " row"]:
    """Probability that the label of each row is wrong, by what the model says of this row alone."""
    classes = told.probabilities.shape[1]
    right = _right(told, share.temperature, share.memory)
    wrong = share.value * (1 - right) / (classes - 1)
    result: np.ndarray = wrong / np.maximum((1 - share.value) * right + wrong, 1e-12)
    return result


def temperature_of(trusted: Told) -> float:
    """The power of the probabilities that makes the labels of trusted rows most likely."""
    powers = np.exp(np.linspace(np.log(0.2), np.log(20), 81))
    logs = np.log(np.maximum(trusted.probabilities.astype(np.float64), SURE))
    own = logs[np.arange(len(trusted)), trusted.labels]
    fits = [float((t * own - np.logaddexp.reduce(t * logs, axis=1)).sum()) for t in powers]
    return float(powers[int(np.argmax(fits))])


def forgotten(told: Told, temperature: float, memory: float) -> Float[np.ndarray, "row class"]:
    """Logarithms of corrected probabilities as if the row had not been trained on, up to a constant.

    One step on a row moves its logits by (one-hot of its label - probabilities) times a constant; `memory` of such
    steps are taken back, in the units of the corrected logits.
    """
    p = np.maximum(told.probabilities.astype(np.float64), SURE)
    logs: np.ndarray = temperature * np.log(p) + memory * p
    logs[np.arange(len(told)), told.labels] -= memory
    return logs


def _right(told: Told, temperature: float, memory: float) -> Float[np.ndarray, " row"]:
    """Probability of each row's label being the true one, of what the text says."""
    logs = forgotten(told, temperature, memory)
    own = logs[np.arange(len(told)), told.labels] - np.logaddexp.reduce(logs, axis=1)
    result: np.ndarray = np.clip(np.exp(own), SURE, 1 - SURE)
    return result


def _solve(rest: Told, canaries: Told, trusted: Told, expected: float) -> tuple[float, float, float]:
    """Temperature, memory and share: the memory at which rest and canaries agree best, near what is expected."""
    temperature, classes = temperature_of(trusted), rest.probabilities.shape[1]
    best: tuple[float, float, float] | None = None
    for memory in MEMORY:
        ours = _profile(_right(rest, temperature, memory), classes, canaries=False)
        theirs = _profile(_right(canaries, temperature, memory), classes, canaries=True)
        together = ours + theirs + _BELIEF
        # What it costs the two to agree on one share.
        apart = ours.max() + theirs.max() - together.max()
        cost = float(apart + 0.5 * ((memory - expected) / SPREAD) ** 2)
        if best is None or cost < best[0]:
            best = cost, float(memory), float(SHARES[int(np.argmax(together))])
    assert best is not None
    return temperature, best[1], best[2]


def _profile(right: Float[np.ndarray, " row"], classes: int, *, canaries: bool) -> Float[np.ndarray, " share"]:
    """Log-likelihood of every share. Canaries carry any label but the row's own."""
    counts, edges = np.histogram(right, bins=_EDGES)
    centres = (edges[:-1] + edges[1:]) / 2
    held = counts > 0
    p, shares = centres[held], SHARES[:, None]
    given = (1 - shares) * p + shares * (1 - p) / (classes - 1)
    result: np.ndarray = np.log(1 - given if canaries else given) @ counts[held]
    return result


# Where nothing is known, small shares are likelier than large ones; of no weight beside any evidence.
_BELIEF: np.ndarray = -0.5 * (SHARES / 0.5) ** 2
# Finer towards 0 and 1.
_EDGES: np.ndarray = 1 / (1 + np.exp(-np.linspace(-9.5, 9.5, 300)))
