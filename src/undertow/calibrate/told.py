"""What a model says of rows, and how that is to be read."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.odds import log_odds

# Probabilities are kept this far from 0 and 1: no model is as sure as that.
SURE = 1e-4
# How far a model is expected to lean towards a class: deviation of the bias, in log-odds.
LEANING = 1.0


@dataclass(frozen=True)
class Told:
    """What a model says of rows.

    Attributes:
        probabilities: of each class.
        labels: the label that each row carries.
        taught: the label that the model was trained on, where it is another; None for the same.
        held_out: whether what is said of each row was not learned from this row.
    """

    probabilities: Float[np.ndarray, "row class"]
    labels: Int[np.ndarray, " row"]
    taught: Int[np.ndarray, " row"] | None = None
    held_out: bool = False

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    @property
    def learned(self) -> Int[np.ndarray, " row"]:
        """The label that the model was trained on."""
        return self.labels if self.taught is None else self.taught

    def take(self, rows: Int[np.ndarray, " some"]) -> "Told":
        """Some of the rows."""
        taught = None if self.taught is None else self.taught[rows]
        return Told(self.probabilities[rows], self.labels[rows], taught, self.held_out)


@dataclass(frozen=True)
class Reading:
    """How the probabilities of a model are to be read, so that they are right of trusted rows.

    Attributes:
        power: that probabilities are raised to; below 1 for a model that is too sure.
        bias: added to the logarithm of each class.
        priors: share of each class among the trusted rows.
        separation: how well the classes are told apart: probability of a class where a trusted row has it, less that
            where it has another; 0 = not at all, 1 = without doubt.
    """

    power: float
    bias: Float[np.ndarray, " class"]
    priors: Float[np.ndarray, " class"]
    separation: float


def read_by(trusted: Told, near: Reading | None = None) -> Reading:
    """The power and the bias of each class that make trusted labels most likely, and their shares.

    A model that learned from flips of one class leans towards the other one; its bias takes that off. One row is added
    to each class, so that none has a share of 0.

    Args:
        trusted: rows that the model was not trained on, with labels to be trusted.
        near: where to begin.
    """
    labelled = np.eye(trusted.probabilities.shape[1])[trusted.labels]
    logs = np.log(np.maximum(trusted.probabilities.astype(np.float64), SURE))
    power, bias = likeliest_reading(logs, labelled, near)
    counts = labelled.sum(axis=0)
    scores = power * logs + bias
    p = np.exp(scores - np.logaddexp.reduce(scores, axis=1)[:, None])
    inside = (labelled * p).sum(axis=0) / np.maximum(counts, 1)
    outside = ((1 - labelled) * p).sum(axis=0) / np.maximum(len(trusted) - counts, 1)
    separation = float((inside - outside)[counts > 0].mean())
    return Reading(power, bias, class_priors(trusted), separation)


def class_priors(trusted: Told) -> Float[np.ndarray, " class"]:
    """Share of each class among the rows, with one row added to each."""
    counts = np.bincount(trusted.labels, minlength=trusted.probabilities.shape[1]) + 1
    result: np.ndarray = counts / counts.sum()
    return result


def likeliest_reading(
    logs: Float[np.ndarray, "row class"],
    targets: Float[np.ndarray, "row class"],
    near: Reading | None = None,
    *,
    least: float = 0.2,
) -> tuple[float, Float[np.ndarray, " class"]]:
    """The power and the bias of each class that make targets most likely.

    Args:
        logs: logarithms of probabilities, up to a constant in each row.
        targets: how probable each class is, of sum 1 in each row; 0 and 1 where labels are known.
        near: where to begin.
        least: lowest power.
    """
    from scipy.optimize import minimize

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        power, bias = np.exp(parameters[0]), parameters[1:]
        scores = power * logs + bias
        scores -= scores.max(axis=1, keepdims=True)
        total = np.log(np.exp(scores).sum(axis=1))
        off = np.exp(scores - total[:, None]) - targets
        value = float(total.sum() - (targets * scores).sum() + 0.5 * ((bias / LEANING) ** 2).sum())
        return value, np.array([power * (off * logs).sum(), *(off.sum(axis=0) + bias / LEANING**2)])

    classes = logs.shape[1]
    bounds = [(np.log(least), np.log(20.0)), *[(None, None)] * classes]
    start = np.zeros(1 + classes) if near is None else np.array([np.log(near.power), *near.bias])
    best: np.ndarray = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(best[0])), best[1:]


def unlearned_class(trusted: Told) -> int | None:
    """The class of which the model gets the fewest trusted rows right, where that is fewer than by chance."""
    right = trusted.probabilities.argmax(axis=1) == trusted.labels
    shares = {int(k): float(right[trusted.labels == k].mean()) for k in np.unique(trusted.labels)}
    worst = min(shares, key=lambda k: shares[k])
    return worst if shares[worst] < 1 / trusted.probabilities.shape[1] else None


def forgotten(told: Told, reading: Reading, memory: float) -> Float[np.ndarray, "row class"]:
    """Logarithms of corrected probabilities as if the row had not been trained on, up to a constant.

    One step on a row moves its logits by (one-hot of its label - probabilities) times a constant; `memory` of such
    steps are taken back, in the units of the corrected logits.
    """
    p = np.maximum(told.probabilities.astype(np.float64), SURE)
    logs: np.ndarray = reading.power * np.log(p) + reading.bias + memory * p
    logs[np.arange(len(told)), told.learned] -= memory
    return logs


def as_read(told: Told, reading: Reading, memory: float = 0.0) -> Float[np.ndarray, "row class"]:
    """Logarithms of the probabilities of a model, corrected by its reading, without its memory of the rows."""
    from scipy.special import log_softmax

    result: np.ndarray = log_softmax(forgotten(told, reading, memory), axis=1)
    return result


def likelihood_ratio(told: Told, reading: Reading, memory: float) -> Float[np.ndarray, " row"]:
    """Logarithm of how much likelier each text is where its label is right than where it is wrong."""
    logs, rows = forgotten(told, reading, memory), np.arange(len(told))
    own = np.exp(logs[rows, told.labels] - np.logaddexp.reduce(logs, axis=1))
    result: np.ndarray = log_odds(own, SURE) - log_odds(reading.priors[told.labels], 0.0)
    return result
