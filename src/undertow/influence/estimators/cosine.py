"""Cosine: the inner product of two gradients, each scaled to length one."""

from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock


def cosine(block: GradientBlock) -> Float[Tensor, "q n"]:
    """<v, g> / (|v| |g|), and 0 where either gradient is zero (never NaN)."""
    return (block.inner * _inverse(block.query_norms)[:, None]).mul_(_inverse(block.sample_norms)[None, :])


def _inverse(norms: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    positive = norms > 0
    return norms.where(positive, 1).reciprocal().where(positive, 0)
