"""How sure models may be of rows that are not like the trusted ones: where they agree less, they are right less often."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from jaxtyping import Float

from undertow.calibrate.told import Told, forgotten, likeliest_reading, read_by

# By how much more the power of a pool falls than that of two of its models held against each other, in logarithms.
BEYOND = 2.0


def agreed_power(rows: Sequence[Told], trusted: Sequence[Told]) -> float:
    """Power at which models are as sure of some rows as of trusted ones; 1 where they agree on them as well, else less.

    Trusted labels say how sure a model may be of rows like these. Of others no label can be trusted; but another model
    can be asked instead, of these and of those. Each model is read by what each other one says, as if that were the
    labels: how much lower the power is by the rows than by the trusted ones, in logarithms, averaged over all pairs,
    says how much less right the models are (agreement on the line: Baek et al. 2022, Jiang et al. 2022). Labels of the
    rows play no part. Models that agree better do not become surer: a shift makes models too sure, seldom the other way.

    Args:
        rows: what each model says of the same rows.
        trusted: what it says of the same trusted rows, with labels to be trusted. Models are to look at different
            things, so that they err apart.
    """
    readings = [read_by(told) for told in trusted]

    def logs(told: Sequence[Told]) -> list[np.ndarray]:
        return [_log_softmax(forgotten(one, by, 0.0)) for one, by in zip(told, readings, strict=True)]

    powers = []
    for said in (logs(rows), logs(trusted)):
        pairs = permutations(range(len(said)), 2)
        powers.append([likeliest_reading(said[i], np.exp(said[j]))[0] for i, j in pairs])
    fallen = np.log(powers[0]) - np.log(powers[1])
    return float(np.exp(min(0.0, BEYOND * fallen.mean()))) if len(fallen) else 1.0


def at_power(told: Told, power: float, priors: Float[np.ndarray, " class"]) -> Told:
    """What a model says at a power: at 1 as it is, at 0 just how frequent each class is.

    Args:
        told: what it says.
        power: at most 1.
        priors: share of each class among trusted rows, above 0.
    """
    usual = np.log(priors)
    logs = np.log(np.maximum(told.probabilities, np.finfo(np.float64).tiny))
    return replace(told, probabilities=np.exp(_log_softmax(usual + power * (logs - usual))))


def _log_softmax(scores: Float[np.ndarray, "row class"]) -> Float[np.ndarray, "row class"]:
    from scipy.special import log_softmax

    found: np.ndarray = log_softmax(scores, axis=1)
    return found
