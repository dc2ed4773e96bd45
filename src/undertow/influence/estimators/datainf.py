"""DataInf: a closed form of the damped inverse-Hessian product, module by module."""

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock


def datainf(block: GradientBlock) -> Float[Tensor, "q n"]:
    """(1/lambda) [<v,g> - (1/n) sum_i <v,g_i><g_i,g> / (lambda + |g_i|^2)].

    lambda = mean_i |g_i|^2 / (10 d). Kwon et al. 2024, "DataInf: Efficiently Estimating Data Influence in
    LoRA-tuned LLMs and Diffusion Models", their own formula (no 1/n on the first term).

    With C = <v,g_i> / (lambda + |g_i|^2), the sum is (C G) G^T: O(q n d), and never an n x n matrix. Where
    every sample's gradient is zero, so is the influence.
    """
    n = block.samples.shape[0]
    squares = block.sample_norms.double().square()
    damping = float(squares.mean() / (10 * block.size))
    if damping == 0:
        return torch.zeros_like(block.inner)
    weights = (damping + squares).reciprocal().to(block.samples.dtype)
    projected = (block.inner * weights) @ block.samples  # [q, d]
    # v - projected/n first: one product with G instead of the difference of two large matrices.
    return ((block.queries - projected / n) / damping) @ block.samples.T
