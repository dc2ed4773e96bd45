"""How much more is wrong if wrong labels gather in texts that are hard to tell, and whether they do.

Read by the true class of a text, the label it carries is

    P(label | text) = p_label (1 - w_label) + sum over other classes t of p_t w_t / (classes - 1),
    w_t = 1 / (1 + exp(-rate_t - gathering log d_t)),    d_t = (1 - p_t) classes / (classes - 1),

p what the model says of each class, w_t the probability that a row of class t carries a wrong label, and d_t how hard
its class is to tell: 0 where the model is sure of it, 1 where it knows nothing, more where it expects another. Without
gathering, labels of each class are wrong alike. Every class has a rate of its own, since flips of one class alone look
like gathering otherwise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.odds import log_odds, probabilities

# Strengths that are tried, and how probable each is before the rows are asked: no gathering twice as probable as any.
GATHERINGS = np.array([0.0, 0.2, 0.4, 0.6])
USUAL = np.array([2 / 3, 1 / 6, 1 / 9, 1 / 18])
# Rows that are heard: of more, the smallest error of the model would speak louder than gathering.
ENOUGH = 4000
# Deviation of the rates of the classes from each other.
ALIKE = 1.0
# Probabilities of a class and of all others are at least this.
SURE = 1e-3
# Shares below this are taken as this where they are compared: the ratio of two tiny ones means nothing.
TINY = 0.005
_LOWEST, _HIGHEST, _START, _LOWEST_SHARE = -9.0, 3.0, -2.0, 1e-6


@dataclass(frozen=True)
class Gathered:
    """What rows say of each strength of gathering.

    Attributes:
        likelihood: the highest logarithm of the likelihood at each strength; of many rows, as of `ENOUGH`.
        shares: share of wrong labels there.
        rates: of the classes there.
    """

    likelihood: Float[np.ndarray, " strength"]
    shares: Float[np.ndarray, " strength"]
    rates: Float[np.ndarray, "strength class"]

    def moved(self, even: float) -> Float[np.ndarray, " strength"]:
        """A share that takes wrong labels to be spread evenly, as it would be at each strength.

        It is moved by as much, in log-odds, as the share at this strength is above the one at none.
        """
        if even <= 0:
            return np.zeros(len(self.shares))
        odds = log_odds(self.shares, TINY)
        moved: np.ndarray = probabilities(log_odds(np.array([even]), _LOWEST_SHARE) + odds - odds[0])
        return moved

    @property
    def probable(self) -> Float[np.ndarray, " strength"]:
        """How probable each strength is."""
        from scipy.special import softmax

        probable: np.ndarray = softmax(self.likelihood + np.log(USUAL))
        return probable


def gathered(
    logs: Float[np.ndarray, "row class"],
    labels: Int[np.ndarray, " row"],
    near: Gathered | None = None,
) -> Gathered:
    """Fit the rates of all classes at every strength of gathering.

    Args:
        logs: logarithms of how probable each class is by the text alone, among rows like these, up to a constant.
        labels: that the rows carry.
        near: where to begin.
    """
    from scipy.special import softmax

    p = np.maximum(softmax(logs, axis=1), SURE)
    p /= p.sum(axis=1, keepdims=True)
    classes = p.shape[1]
    hard = np.log(np.maximum((1 - p) * classes / (classes - 1), SURE))
    carried = np.eye(classes)[labels]
    at = np.full(classes, _START)
    found = []
    for i, strength in enumerate(GATHERINGS):
        at = _rates(p, strength * hard, carried, at if near is None else near.rates[i])
        found.append((*_wrong(p, strength * hard, carried, at), at))
    counted = min(1.0, ENOUGH / max(len(p), 1))
    return Gathered(
        np.array([np.log(total).sum() * counted for total, _, _ in found]),
        np.array([(wrong / total).mean() for total, wrong, _ in found]),
        np.array([rates for _, _, rates in found]),
    )


def _wrong(
    p: np.ndarray, hard: np.ndarray, carried: np.ndarray, rates: np.ndarray
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """How probable the label of each row is, and the part of it that is wrong."""
    flipped = p * probabilities(rates + hard)
    wrong = (flipped * (1 - carried)).sum(axis=1) / (p.shape[1] - 1)
    return ((p - flipped) * carried).sum(axis=1) + wrong, wrong


def _rates(p: np.ndarray, hard: np.ndarray, carried: np.ndarray, start: np.ndarray) -> Float[np.ndarray, " class"]:
    """The rates that make the labels most likely, held near each other."""
    from scipy.optimize import minimize

    own, classes = (p * carried).sum(axis=1), p.shape[1]
    turn = p * ((1 - carried) / (classes - 1) - carried)
    held = classes / (classes - 1) / ALIKE**2

    def cost(rates: np.ndarray) -> tuple[float, np.ndarray]:
        w = probabilities(rates + hard)
        total, off = own + (turn * w).sum(axis=1), rates - rates.mean()
        slope = -(turn * w * (1 - w) / total[:, None]).sum(axis=0) + held * off
        return float(-np.log(total).sum() + 0.5 * held * (off @ off)), slope

    found: np.ndarray = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(_LOWEST, _HIGHEST)] * classes).x
    return found
