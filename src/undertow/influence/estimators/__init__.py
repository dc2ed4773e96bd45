"""The estimators by name. Each is a pure function from a `GradientBlock` to influence [q, n].

Sign: positive = helpful, a step on the sample lowers the query's loss. What an estimator needs beside the
gradients of the final model stands in `undertow.influence.names`.
"""

from collections.abc import Callable

from torch import Tensor

from undertow.influence.block import GradientBlock
from undertow.influence.estimators.cosine import cosine
from undertow.influence.estimators.covariance import covariance
from undertow.influence.estimators.datainf import datainf, datainf0
from undertow.influence.estimators.exact import exact
from undertow.influence.estimators.less import less
from undertow.influence.estimators.lissa import lissa
from undertow.influence.estimators.self_influence import self_influence
from undertow.influence.estimators.tracin import tracin
from undertow.influence.estimators.word_embeddings import tracin_we, tracin_we_k, tracin_we_k_pair

Estimator = Callable[[GradientBlock], Tensor]

# tracincp is not here: it is TracIn of several checkpoints, added up with their learning rates where the
# checkpoints are (`undertow.influence.compute`). ekfac is not: it takes gradients of its own.
ESTIMATORS: dict[str, Estimator] = {
    "tracin": tracin,
    "cosine": cosine,
    "datainf": datainf,
    "datainf0": datainf0,
    "covariance": covariance,
    "self-influence": self_influence,
    "exact": exact,
    "lissa": lissa,
    "tracin-we": tracin_we,
    "tracin-we-k": tracin_we_k,
    "tracin-we-k-pair": tracin_we_k_pair,
    "less": less,
}


__all__ = ["ESTIMATORS", "Estimator"]
