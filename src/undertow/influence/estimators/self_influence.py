"""Self-influence: how much a step on a sample would change its own loss."""

from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock


def self_influence(block: GradientBlock) -> Float[Tensor, "q n"]:
    """-|g|^2, the same for every query: TracIn of a sample on itself (Pruthi et al. 2020, section 4.1), negated.

    Mislabelled and atypical samples have a large influence on themselves; with the minus they come out as
    harmful, as with every other estimator.
    """
    values = -block.sample_squares.to(block.samples.dtype)
    return values.expand(block.queries.samples, -1).clone()
