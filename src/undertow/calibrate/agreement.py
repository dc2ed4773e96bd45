"""How sure models may be of rows unlike the trusted ones: where they agree less, they are right less often."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from jaxtyping import Float

from undertow.calibrate.told import Told, as_read, likeliest_reading, read_by

# By how much more the power of a pool falls than that of its models by each other, in logarithms. Layers of one model
# err alike, so that they agree better than they are right: measured, not derived.
BEYOND = 2.0
# Lowest power of a model by another one: of models that hardly agree it is near 0.
LEAST = 0.01


def agreed_power(rows: Sequence[Told], trusted: Sequence[Told]) -> float:
    """Power at which models are as sure of some rows as of trusted ones; 1 where they agree on them as well, else less.

    Trusted labels say how sure a model may be of rows like these. Of others no label can be trusted; but another model
    can be asked instead, of these and of those. Each model is read by what each other one says, as if that were the
    labels: how much lower its power is by the rows than by the trusted ones says how much less right the models are
    (agreement on the line: Baek et al. 2022, Jiang et al. 2022). That is averaged over all pairs in logarithms, each
    weighed by how well both tell the classes of trusted rows apart. Labels of the rows play no part. Models that agree
    better do not become surer: a shift makes them too sure, seldom the other way.

    Args:
        rows: what each model says of the same rows.
        trusted: what it says of the same trusted rows, with labels to be trusted. Models are to look at different
            things, so that they err apart.
    """
    readings = [read_by(told) for told in trusted]
    apart = [max(reading.separation, 0.0) for reading in readings]

    def logs(told: Sequence[Told]) -> list[np.ndarray]:
        return [as_read(one, reading) for one, reading in zip(told, readings, strict=True)]

    ours, theirs, fallen, weights = logs(rows), logs(trusted), 0.0, 0.0
    for i, j in permutations(range(len(trusted)), 2):
        here, there = (likeliest_reading(said[i], np.exp(said[j]), least=LEAST)[0] for said in (ours, theirs))
        fallen += apart[i] * apart[j] * float(np.log(here / there))
        weights += apart[i] * apart[j]
    return float(np.exp(min(0.0, BEYOND * fallen / weights))) if weights else 1.0


def at_power(told: Told, power: float, priors: Float[np.ndarray, " class"]) -> Told:
    """What a model says at a power: at 1 as it is, at 0 just how frequent each class is.

    Args:
        told: what it says.
        power: at most 1.
        priors: share of each class among trusted rows, above 0.
    """
    from scipy.special import softmax

    usual = np.log(priors)
    logs = np.log(np.maximum(told.probabilities, np.finfo(np.float64).tiny))
    return replace(told, probabilities=softmax(usual + power * (logs - usual), axis=1))
