"""Exact damped Gauss-Newton: what DataInf and LiSSA approximate."""

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.errors import ConfigError
from undertow.influence import products
from undertow.influence.block import GradientBlock
from undertow.influence.estimators.damping import damping

# Rows of the largest matrix that is solved: 8 GB would be 32,000.
LIMIT = 10_000


def exact(block: GradientBlock) -> Float[Tensor, "q n"]:
    """v^T (G^T G / n + lambda I)^-1 g, with G [n, d] the samples' gradients and lambda as in DataInf.

    Koh & Liang 2017, "Understanding Black-box Predictions via Influence Functions", with the empirical Fisher
    matrix for the Hessian. The smaller of the two systems is solved in float64: [d, d], or [n, n] by Woodbury's
    identity (1/lambda) [V G^T - V G^T (n lambda I + G G^T)^-1 G G^T].

    Raises:
        ConfigError: where both n and d exceed 10,000.
    """
    n, d, ridge = block.rows, block.size, damping(block)
    if ridge == 0:
        return torch.zeros(block.queries.samples, block.count, dtype=block.samples.dtype)
    if min(n, d) > LIMIT:
        raise ConfigError(
            f"The exact estimator solves a system of {min(n, d):,} unknowns for a module of {d:,} parameters and "
            f"{n:,} samples; at most {LIMIT:,} are accepted. Use datainf or lissa there, or fewer samples."
        )
    found = _by_parameters(block, ridge) if d <= n else _by_samples(block, ridge)
    return found.to(block.samples.dtype)


def _by_parameters(block: GradientBlock, ridge: float) -> Tensor:
    g = block.samples.rows(slice(0, block.count)).double()
    v = block.queries.rows(slice(0, block.queries.samples)).double()
    own = g[: block.rows]
    hessian = (own.T @ own / block.rows).diagonal_scatter((own.square().sum(0) / block.rows) + ridge)
    solved: Tensor = torch.cholesky_solve(g.T, torch.linalg.cholesky(hessian))
    return v @ solved


def _by_samples(block: GradientBlock, ridge: float) -> Tensor:
    # 1 / lambda would blow up the rounding of products in float32.
    wide, n = block.double(), block.rows
    gram = products.gram(wide.samples)
    system = gram[:n, :n] + n * ridge * torch.eye(n, dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(system, gram[:n])
    return (wide.inner - wide.inner[:, :n] @ solved) / ridge
