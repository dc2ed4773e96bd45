"""The estimators by name. Each is a pure function from a `GradientBlock` to influence [q, n].

Sign: positive = helpful, a step on the sample lowers the query's loss.
"""

from collections.abc import Callable

from torch import Tensor

from undertow.influence.block import GradientBlock
from undertow.influence.estimators.cosine import cosine
from undertow.influence.estimators.datainf import datainf
from undertow.influence.estimators.tracin import tracin

Estimator = Callable[[GradientBlock], Tensor]

ESTIMATORS: dict[str, Estimator] = {"tracin": tracin, "cosine": cosine, "datainf": datainf}


__all__ = ["ESTIMATORS", "Estimator", "cosine", "datainf", "tracin"]
