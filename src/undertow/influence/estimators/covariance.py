"""Covariance: the inner product of two gradients after each lost its mean."""

from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock


def covariance(block: GradientBlock) -> Float[Tensor, "q n"]:
    """<v,g> / d - mean(v) mean(g): the covariance of two gradients over their d parameters."""
    d = block.size
    queries = (block.queries.sums / d).to(block.inner.dtype)
    samples = (block.samples.sums / d).to(block.inner.dtype)
    return (block.inner / d).addr_(queries, samples, alpha=-1)
