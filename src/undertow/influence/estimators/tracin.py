"""TracIn: the inner product of two gradients."""

from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock


def tracin(block: GradientBlock) -> Float[Tensor, "q n"]:
    """<v, g> at one checkpoint (Pruthi et al. 2020, "Estimating Training Data Influence by Tracing Gradient
    Descent", one term of TracInCP without its learning rate).
    """
    return block.inner
