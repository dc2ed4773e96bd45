"""DataInf: a closed form of the damped inverse-Hessian product, module by module."""

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock
from undertow.influence.estimators.damping import damping

# Below this, damping is too near the smallest numbers of float32.
_SMALL = 1e-28
# Part of the first term that has to be left of the difference for float32 to hold three digits of it.
_KEPT = 1e-3


def datainf(block: GradientBlock) -> Float[Tensor, "q n"]:
    """(1/lambda) [<v,g> - (1/n) sum_i <v,g_i><g_i,g> / (lambda + |g_i|^2)].

    lambda = mean_i |g_i|^2 / (10 d). Kwon et al. 2024, "DataInf: Efficiently Estimating Data Influence in
    LoRA-tuned LLMs and Diffusion Models", their own formula (no 1/n on the first term).

    With C = <v,g_i> / (lambda + |g_i|^2), the sum is (C G) G^T: O(q n d), and never an n x n matrix. Where
    every sample's gradient is zero, so is the influence.
    """
    return _datainf(block, first=1.0)


def datainf0(block: GradientBlock) -> Float[Tensor, "q n"]:
    """The variant with 1/n on both terms: (1/(lambda n)) [<v,g> - sum_i <v,g_i><g_i,g> / (lambda + |g_i|^2)].

    The released code of Vitel & Chhabra (arXiv 2511.04715) offers it beside the formula of Kwon et al.
    """
    return _datainf(block, first=1.0 / block.rows)


def _datainf(block: GradientBlock, first: float) -> Tensor:
    ridge = damping(block)
    if ridge == 0:
        return torch.zeros_like(block.inner)
    if ridge < _SMALL:  # products of such gradients are no numbers of float32
        return _difference(block.double(), ridge, first).to(block.samples.dtype)
    found = _difference(block, ridge, first)
    # Where gradients are parallel, the difference is a ten-thousandth of its terms, and rounding is as large.
    kept = float(found.abs().sum()) * ridge / max(first * float(block.inner.abs().sum()), _SMALL)
    if kept > _KEPT or block.inner.dtype == torch.float64:
        return found
    return _difference(block.double(), ridge, first).to(block.samples.dtype)


def _difference(block: GradientBlock, ridge: float, first: float) -> Tensor:
    weights = (ridge + block.sample_squares).reciprocal().to(block.inner.dtype)
    second = block.gram_product(torch.mul(block.inner, weights, out=block.empty("weighted")))
    return second.mul_(-1 / block.rows).add_(block.inner, alpha=first).mul_(1 / ridge)
