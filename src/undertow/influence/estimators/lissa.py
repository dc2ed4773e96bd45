"""LiSSA: the damped inverse-Hessian product by a truncated series."""

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.influence.block import GradientBlock
from undertow.influence.estimators.damping import damping

ITERATIONS = 10


def lissa(block: GradientBlock, iterations: int = ITERATIONS) -> Float[Tensor, "q n"]:
    """<r, g> / s after r <- v + r - H r / s, ``iterations`` times from r = v; H = G^T G / n + lambda I.

    Agarwal et al. 2017, "Second-Order Stochastic Optimization for Machine Learning in Linear Time", with all
    samples in each step instead of a random one, so that the result has no chance in it. lambda is DataInf's;
    s = mean_i |g_i|^2 + lambda bounds the largest eigenvalue of H, so the series converges, to `exact`.

    r stays in the span of v and the samples' gradients, r = a v + W G, so each step is one product W G G^T.
    """
    ridge = damping(block)
    if ridge == 0:
        return torch.zeros_like(block.inner)
    scale = float(block.sample_squares[: block.rows].mean()) + ridge
    keep = 1 - ridge / scale
    own, weights, response = 1.0, torch.zeros_like(block.inner), block.inner
    for _ in range(iterations):
        weights = keep * weights - response / (block.rows * scale)
        own = 1 + keep * own
        response = own * block.inner + block.gram_product(weights)
    return response / scale
