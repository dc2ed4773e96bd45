"""State of an Adam optimiser for the parameters of one module."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """First and second moment of Adam for one module, in the order of its gradient.

    Attributes:
        first: running mean of the gradients, exp_avg, [d].
        second: running mean of the squared gradients, exp_avg_sq, [d].
        step: optimiser steps done.
        betas: decay of the two.
        epsilon: what is added to the root of the second.
    """

    first: Float[Tensor, " d"]
    second: Float[Tensor, " d"]
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
