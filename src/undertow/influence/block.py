"""What an estimator sees of one module."""

from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from undertow.gradients.matrices import DenseGradients, Gradients, double, slices
from undertow.influence import products
from undertow.influence.moments import Moments
from undertow.influence.scratch import Scratch


class GradientBlock:
    """Gradients of some queries and all samples for one module, with the products estimators share.

    What two estimators need is computed once: asking TracIn, Cosine and DataInf together costs one inner
    product matrix, not three. Estimators need not know in which form gradients are held.

    Args:
        queries: gradient v of each query, [q, d] in any form, or a dense tensor.
        samples: gradient g of each sample, [n, d], likewise.
        moments: state of the optimiser for this module, where there is one.
        scratch: memory to work in, shared by blocks of which one at a time is used.
        rows: the first so many samples are the training rows that sums run over; those behind them are control rows,
            which are only scored. All samples by default.
    """

    def __init__(
        self,
        queries: Gradients | Tensor,
        samples: Gradients | Tensor,
        moments: Moments | None = None,
        scratch: Scratch | None = None,
        rows: int | None = None,
    ) -> None:
        self.queries = DenseGradients(queries) if isinstance(queries, Tensor) else queries
        self.samples = DenseGradients(samples) if isinstance(samples, Tensor) else samples
        self.moments = moments
        self._shared = scratch
        self.scratch = scratch or Scratch()
        self._rows = rows

    @cached_property
    def inner(self) -> Float[Tensor, "q n"]:
        """Inner products <v, g>."""
        return products.inner(self.queries, self.samples, out=self.empty("inner"))

    @cached_property
    def query_norms(self) -> Float[Tensor, " q"]:
        """Euclidean norms of the query gradients."""
        return self.queries.squares.sqrt().to(self.queries.dtype)

    @cached_property
    def sample_norms(self) -> Float[Tensor, " n"]:
        """Euclidean norms of the sample gradients."""
        return self.samples.squares.sqrt().to(self.samples.dtype)

    @property
    def sample_squares(self) -> Float[Tensor, " n"]:
        """Squared norms of the sample gradients, in float64."""
        return self.samples.squares

    @property
    def count(self) -> int:
        """Number of samples, control rows among them."""
        return self.samples.samples

    @property
    def rows(self) -> int:
        """Number n of training rows, which stand first: what sums over samples run over."""
        return self.count if self._rows is None else self._rows

    @property
    def size(self) -> int:
        """Number of parameters d of the module."""
        return self.samples.size

    def gram_product(self, weights: Float[Tensor, "q n"]) -> Float[Tensor, "q n"]:
        """W G G^T for weights W [q, n] and the samples' gradients G [n, d]; those of control rows are set to 0."""
        weights[:, self.rows :] = 0
        return products.gram_product(weights, self.samples, self.scratch)

    def empty(self, name: str) -> Float[Tensor, "q n"]:
        """Memory for a block [q, n], valid until the same name is asked for again."""
        return self.scratch(name, self.queries.samples, self.count, dtype=self.samples.dtype)

    def double(self) -> "GradientBlock":
        """The same gradients in float64."""
        return GradientBlock(double(self.queries), double(self.samples), rows=self._rows)

    def query_chunks(self, numbers: int) -> list[slice]:
        """Queries in chunks whose block [q, n] holds at most ``numbers`` numbers."""
        return slices(self.queries.samples, self.count, numbers)

    def of_queries(self, which: slice) -> "GradientBlock":
        """The block of some queries; what the samples remember of themselves is shared."""
        if (which.start, which.stop) == (0, self.queries.samples):
            return self
        return GradientBlock(self.queries.select(which), self.samples, self.moments, self._shared, self._rows)
