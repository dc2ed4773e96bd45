"""The gradients of n samples for one module, in the form they are held: dense, factored, or sparse rows.

All three are the same matrix [n, size] to whoever asks for norms, sums or rows; products of two of them are in
`undertow.influence.products`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from undertow.gradients.units import outer_sums, squared_norms


@dataclass(frozen=True)
class DenseGradients:
    """Gradients as they are.

    Attributes:
        values: [n, size] in the precision they are stored in.
    """

    values: Float[Tensor, "n d"]

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return self.values.shape[0]

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return self.values.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision that products are computed in: float32, or float64 where it is stored so."""
        return _wide(self.values.dtype)

    @cached_property
    def squares(self) -> Float[Tensor, " n"]:
        """Squared norm of each gradient, in float64."""
        return torch.cat([_row_squares(self.rows(s)) for s in slices(self.samples, self.size)])

    @cached_property
    def sums(self) -> Float[Tensor, " n"]:
        """Sum over the parameters of each gradient, in float64."""
        return torch.cat([self.rows(s).sum(1, dtype=torch.float64) for s in slices(self.samples, self.size)])

    def rows(self, which: slice) -> Float[Tensor, "b d"]:
        """Dense gradients of some samples."""
        return self.values[which].to(self.dtype)

    def select(self, which: slice) -> "DenseGradients":
        """The gradients of some samples."""
        return DenseGradients(self.values[which])


@dataclass(frozen=True)
class FactoredGradients:
    """Gradients of a linear layer by their factors: sample i is the sum over its units of delta x^T.

    Attributes:
        inputs: x of all units, sample after sample, [units, in].
        deltas: gradient of the layer's output at these units, [units, out].
        starts: first unit of each sample and the end, [n + 1].
        bias: whether the layer has a bias; its gradient is the sum of the deltas.
        transposed: whether dense rows give the weight as [in, out].
    """

    inputs: Float[Tensor, "units i"]
    deltas: Float[Tensor, "units o"]
    starts: Int[Tensor, " n1"]
    bias: bool = False
    transposed: bool = False

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return (self.inputs.shape[1] + self.bias) * self.deltas.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision that products are computed in."""
        return _wide(self.inputs.dtype)

    @cached_property
    def squares(self) -> Float[Tensor, " n"]:
        """Squared norm of each gradient, in float64."""
        if self.single:
            return _row_squares(self.units(slice(0, self.samples))[0]) * _row_squares(self.deltas.to(self.dtype))
        return squared_norms(self.inputs, self.deltas, self.starts, bias=self.bias, dtype=self.dtype)

    @cached_property
    def sums(self) -> Float[Tensor, " n"]:
        """Sum over the parameters of each gradient, in float64."""
        units = (self.inputs.sum(1, dtype=torch.float64) + self.bias) * self.deltas.sum(1, dtype=torch.float64)
        return torch.zeros(self.samples, dtype=torch.float64).index_add_(0, self.owners, units)

    @cached_property
    def owners(self) -> Int[Tensor, " units"]:
        """Sample that each unit belongs to."""
        return torch.repeat_interleave(torch.arange(self.samples), self.starts.diff())

    @cached_property
    def single(self) -> bool:
        """Whether every sample has one unit."""
        return len(self.inputs) == self.samples and bool((self.starts.diff() == 1).all())

    def units(self, which: slice) -> tuple[Float[Tensor, "u i"], Float[Tensor, "u o"]]:
        """Factors of some samples, a bias as one more input that is always 1."""
        first, last = int(self.starts[which.start]), int(self.starts[which.stop])
        x, delta = self.inputs[first:last].to(self.dtype), self.deltas[first:last].to(self.dtype)
        return (torch.cat([x, x.new_ones(len(x), 1)], dim=1) if self.bias else x), delta

    def rows(self, which: slice) -> Float[Tensor, "b d"]:
        """Dense gradients of some samples, in the layout of the layer's parameters."""
        some = self.select(which)
        left, right = (some.inputs, some.deltas) if self.transposed else (some.deltas, some.inputs)
        cells = left.shape[1] * right.shape[1]
        rows = torch.empty(some.samples, self.size, dtype=self.dtype)
        outer_sums(left, right, some.starts, torch.unflatten(rows[:, :cells], 1, (left.shape[1], right.shape[1])))
        if self.bias:
            rows[:, cells:] = some._delta_sums(some.deltas)
        return rows

    def outputs(self, which: slice, columns: slice) -> Float[Tensor, "b d"]:
        """Dense gradients of some samples for some output features, [b, outputs * (in + bias)]."""
        some, inputs = self.select(which), self.inputs.shape[1]
        deltas = some.deltas[:, columns]
        block = torch.empty(some.samples, deltas.shape[1], inputs + self.bias, dtype=self.dtype)
        outer_sums(deltas, some.inputs, some.starts, block[:, :, :inputs])
        if self.bias:
            block[:, :, inputs] = some._delta_sums(deltas)
        return block.flatten(1)

    def select(self, which: slice) -> "FactoredGradients":
        """The gradients of some samples."""
        first, last = int(self.starts[which.start]), int(self.starts[which.stop])
        starts = self.starts[which.start : which.stop + 1] - first
        return FactoredGradients(self.inputs[first:last], self.deltas[first:last], starts, self.bias, self.transposed)

    def _delta_sums(self, deltas: Float[Tensor, "units c"]) -> Float[Tensor, "n c"]:
        sums = torch.zeros(self.samples, deltas.shape[1], dtype=self.dtype)
        return sums.index_add_(0, self.owners, deltas.to(self.dtype))


@dataclass(frozen=True)
class SparseGradients:
    """Gradients of word embeddings: one row for each distinct token of each sample, zero for all others.

    Attributes:
        values: row of each (sample, token), sample after sample and token after token, [r, width].
        tokens: token of each row, [r]; ascending within a sample.
        counts: how often the token occurs in its sample, [r].
        starts: first row of each sample and the end, [n + 1].
        vocabulary: tokens of the embedding.
    """

    values: Float[Tensor, "r width"]
    tokens: Int[Tensor, " r"]
    counts: Int[Tensor, " r"]
    starts: Int[Tensor, " n1"]
    vocabulary: int

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Number of parameters d, all tokens counted."""
        return self.vocabulary * self.values.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision that products are computed in."""
        return _wide(self.values.dtype)

    @cached_property
    def owners(self) -> Int[Tensor, " r"]:
        """Sample that each row belongs to."""
        return torch.repeat_interleave(torch.arange(self.samples), self.starts.diff())

    @cached_property
    def row_squares(self) -> Float[Tensor, " r"]:
        """Squared norm of each row, in float64."""
        parts = slices(len(self.values), self.values.shape[1])
        return torch.cat([_row_squares(self.values[s].to(self.dtype)) for s in parts])

    @cached_property
    def squares(self) -> Float[Tensor, " n"]:
        """Squared norm of each gradient, in float64."""
        return torch.zeros(self.samples, dtype=torch.float64).index_add_(0, self.owners, self.row_squares)

    @cached_property
    def sums(self) -> Float[Tensor, " n"]:
        """Sum over the parameters of each gradient, in float64."""
        rows = self.values.sum(1, dtype=torch.float64)
        return torch.zeros(self.samples, dtype=torch.float64).index_add_(0, self.owners, rows)

    @cached_property
    def by_token(self) -> "TokenOrder":
        """The rows sorted by token."""
        order = torch.argsort(self.tokens, stable=True)
        tokens, counts = torch.unique_consecutive(self.tokens[order], return_counts=True)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return TokenOrder(self.values[order].to(self.dtype), self.owners[order], tokens, starts)

    def rows(self, which: slice) -> Float[Tensor, "b d"]:
        """Dense gradients of some samples, [b, vocabulary * width]; large."""
        some = self.select(which)
        dense = torch.zeros(some.samples, self.vocabulary, self.values.shape[1], dtype=self.dtype)
        dense[some.owners, some.tokens] = some.values.to(self.dtype)
        return dense.flatten(1)

    def select(self, which: slice) -> "SparseGradients":
        """The gradients of some samples."""
        first, last = int(self.starts[which.start]), int(self.starts[which.stop])
        starts = self.starts[which.start : which.stop + 1] - first
        rows = slice(first, last)
        return SparseGradients(self.values[rows], self.tokens[rows], self.counts[rows], starts, self.vocabulary)

    def keep(self, rows: Tensor) -> "SparseGradients":
        """Only the rows of a mask [r]; the others count as zero."""
        kept = torch.zeros(self.samples, dtype=torch.int64).index_add_(0, self.owners, rows.long())
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return SparseGradients(self.values[rows], self.tokens[rows], self.counts[rows], starts, self.vocabulary)


@dataclass(frozen=True)
class TokenOrder:
    """Rows of sparse gradients, token after token.

    Attributes:
        values: [r, width], in the precision of products.
        owners: sample of each row, [r]; ascending within a token, each at most once.
        tokens: distinct tokens, ascending, [t].
        starts: first row of each token and the end, [t + 1].
    """

    values: Float[Tensor, "r width"]
    owners: Int[Tensor, " r"]
    tokens: Int[Tensor, " t"]
    starts: Int[Tensor, " t1"]


Gradients: TypeAlias = DenseGradients | FactoredGradients | SparseGradients

# Numbers of a block that is worked on at once: 256 MB in float32.
_BLOCK = 64_000_000


def slices(count: int, width: int | float, numbers: int | float = _BLOCK) -> list[slice]:
    """Cut ``count`` rows of ``width`` numbers into blocks of at most ``numbers``, one row at least."""
    step = max(1, int(numbers / max(width, 1)))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)] or [slice(0, 0)]


def _row_squares(rows: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Squared norms in float64 without a float64 copy of the rows."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.double().square()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def double(gradients: Gradients) -> Gradients:
    """The same gradients in float64."""
    if isinstance(gradients, FactoredGradients):
        return replace(gradients, inputs=gradients.inputs.double(), deltas=gradients.deltas.double())
    if isinstance(gradients, DenseGradients):
        return DenseGradients(gradients.values.double())
    return replace(gradients, values=gradients.values.double())
