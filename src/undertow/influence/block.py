"""What an estimator sees of one module."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GradientBlock:
    """Gradients of all queries and all samples for one module, with the products estimators share.

    What two estimators need is computed once: asking TracIn, Cosine and DataInf together costs one inner
    product matrix, not three.

    Attributes:
        queries: gradient v of each query, [q, d].
        samples: gradient g of each sample, [n, d].
    """

    queries: Float[Tensor, "q d"]
    samples: Float[Tensor, "n d"]

    @cached_property
    def inner(self) -> Float[Tensor, "q n"]:
        """Inner products <v, g>."""
        return self.queries @ self.samples.T

    @cached_property
    def query_norms(self) -> Float[Tensor, " q"]:
        """Euclidean norms of the query gradients."""
        norms: Tensor = torch.linalg.vector_norm(self.queries, dim=1)
        return norms

    @cached_property
    def sample_norms(self) -> Float[Tensor, " n"]:
        """Euclidean norms of the sample gradients."""
        norms: Tensor = torch.linalg.vector_norm(self.samples, dim=1)
        return norms

    @property
    def size(self) -> int:
        """Number of parameters d of the module."""
        return self.samples.shape[1]
