"""The share of wrong labels, from what the trained model thinks of them.

Trusted rows, which the model was not trained on, say how often it is right at each confidence. Rows of the training
data carry their label with the probability

    P(given label) = (1 - share) p + share (1 - p) / (classes - 1),

p the model's probability of that label, corrected twice: by a temperature and a bias of each class, so that it is
right of the trusted rows; and by what training on the very row added to its own label, which is taken off again
(`forgotten`). How much that is, canaries tell: their labels are known to be other than the given ones, so that they
tell of the same share from the other side, and training pulls the two answers apart.
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
# How far a model is expected to lean towards a class: deviation of the bias, in log-odds.
LEANING = 1.0
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
        bias: added to the logarithm of each class; empty for none.
    """

    value: float
    low: float
    high: float
    memory: float
    temperature: float
    bias: tuple[float, ...] = ()


def estimate_share(rest: Told, canaries: Told, trusted: Told, *, times: int = 200, seed: int = 0) -> Share:
    """The share of wrong labels among the rest, with an interval over rows, canaries and trusted rows.

    Wrong labels are taken to be spread over rows and classes evenly, as those of canaries are.

    Args:
        rest: rows that are not canaries, with their labels.
        canaries: canaries with the labels they were trained with, each other than the row's own.
        trusted: rows that the model was not trained on, with labels to be trusted.
        times: resamples.
        seed: of the resamples.

    The interval is that of the estimates in resamples, and holds every share that the evidence does not speak against:
    of a model that knows nothing, resamples agree on nothing too.
    """
    random = np.random.default_rng(seed)
    fit = calibration_of(trusted)
    memory, value = _solve(rest, canaries, fit, EXPECTED)
    ends = [_plausible(rest, canaries, fit, memory)]
    if len(rest) > ENOUGH:  # resampled at their own size below: the interval is that of as many
        rest = rest.take(random.choice(len(rest), ENOUGH, replace=False))
    drawn = []
    for _ in range(times):
        ours, theirs, known = (p.take(random.integers(0, len(p), len(p))) for p in (rest, canaries, trusted))
        drawn.append(_solve(ours, theirs, calibration_of(known, fit), random.normal(EXPECTED, SPREAD))[1])
    ends.append(tuple(np.quantile(drawn, [0.025, 0.975])))
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    return Share(value, float(low), float(high), memory, float(np.exp(fit[0])), tuple(fit[1:].tolist()))


def doubts(told: Told, share: Share) -> Float[np.ndarray, " row"]:
    """Probability that the label of each row is wrong, by what the model says of this row alone."""
    classes = told.probabilities.shape[1]
    right = _right(told, np.array([np.log(share.temperature), *(share.bias or np.zeros(classes))]), share.memory)
    wrong = share.value * (1 - right) / (classes - 1)
    result: np.ndarray = wrong / np.maximum((1 - share.value) * right + wrong, 1e-12)
    return result


def calibration_of(
    trusted: Told, near: Float[np.ndarray, " parameter"] | None = None
) -> Float[np.ndarray, " parameter"]:
    """Logarithm of the power of the probabilities, and bias of each class, that make trusted labels most likely.

    A model that learned from flips of one class leans towards the other one; its bias takes that off.

    Args:
        trusted: rows that the model was not trained on, with labels to be trusted.
        near: where to begin.
    """
    from scipy.optimize import minimize

    logs = np.log(np.maximum(trusted.probabilities.astype(np.float64), SURE))
    rows, classes = np.arange(len(trusted)), logs.shape[1]
    labelled = np.zeros_like(logs)
    labelled[rows, trusted.labels] = 1

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        power, bias = np.exp(parameters[0]), parameters[1:]
        scores = power * logs + bias
        scores -= scores.max(axis=1, keepdims=True)
        total = np.log(np.exp(scores).sum(axis=1))
        off = np.exp(scores - total[:, None]) - labelled
        value = float(total.sum() - scores[rows, trusted.labels].sum() + 0.5 * ((bias / LEANING) ** 2).sum())
        return value, np.array([power * (off * logs).sum(), *(off.sum(axis=0) + bias / LEANING**2)])

    bounds = [(np.log(0.2), np.log(20.0)), *[(None, None)] * classes]
    start = np.zeros(1 + classes) if near is None else near
    result: np.ndarray = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return result


def unlearned_class(trusted: Told) -> int | None:
    """The class of which the model gets the fewest trusted rows right, where that is fewer than by chance."""
    right = trusted.probabilities.argmax(axis=1) == trusted.labels
    shares = {int(k): float(right[trusted.labels == k].mean()) for k in np.unique(trusted.labels)}
    worst = min(shares, key=lambda k: shares[k])
    return worst if shares[worst] < 1 / trusted.probabilities.shape[1] else None


def forgotten(told: Told, fit: Float[np.ndarray, " parameter"], memory: float) -> Float[np.ndarray, "row class"]:
    """Logarithms of corrected probabilities as if the row had not been trained on, up to a constant.

    One step on a row moves its logits by (one-hot of its label - probabilities) times a constant; `memory` of such
    steps are taken back, in the units of the corrected logits. ``fit`` is that of `calibration_of`.
    """
    p = np.maximum(told.probabilities.astype(np.float64), SURE)
    logs: np.ndarray = np.exp(fit[0]) * np.log(p) + fit[1:] + memory * p
    logs[np.arange(len(told)), told.labels] -= memory
    return logs


def _right(told: Told, fit: Float[np.ndarray, " parameter"], memory: float) -> Float[np.ndarray, " row"]:
    """Probability of each row's label being the true one, of what the text says."""
    logs = forgotten(told, fit, memory)
    own = logs[np.arange(len(told)), told.labels] - np.logaddexp.reduce(logs, axis=1)
    result: np.ndarray = np.clip(np.exp(own), SURE, 1 - SURE)
    return result


def _solve(rest: Told, canaries: Told, fit: Float[np.ndarray, " parameter"], expected: float) -> tuple[float, float]:
    """Memory and share: the memory at which rest and canaries agree best, near what is expected."""
    classes = rest.probabilities.shape[1]
    best: tuple[float, float, float] | None = None
    for memory in MEMORY:
        ours = _profile(_right(rest, fit, memory), classes, canaries=False)
        theirs = _profile(_right(canaries, fit, memory), classes, canaries=True)
        together = ours + theirs + _BELIEF
        # What it costs the two to agree on one share.
        apart = ours.max() + theirs.max() - together.max()
        cost = float(apart + 0.5 * ((memory - expected) / SPREAD) ** 2)
        if best is None or cost < best[0]:
            best = cost, float(memory), float(SHARES[int(np.argmax(together))])
    assert best is not None
    return best[1], best[2]


def _plausible(rest: Told, canaries: Told, fit: Float[np.ndarray, " parameter"], memory: float) -> tuple[float, float]:
    """The lowest and the highest share whose likelihood is not below the highest one by more than 95% allow."""
    classes = rest.probabilities.shape[1]
    together = _profile(_right(rest, fit, memory), classes, canaries=False) + _BELIEF
    together += _profile(_right(canaries, fit, memory), classes, canaries=True)
    held = SHARES[together >= together.max() - _ALLOWED]
    return float(held[0]), float(held[-1])


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
# Half of the 95% quantile of chi-square with one degree of freedom.
_ALLOWED = 1.92
# Finer towards 0 and 1.
_EDGES: np.ndarray = 1 / (1 + np.exp(-np.linspace(-9.5, 9.5, 300)))
