"""Where the gradients of one module are written, batch by batch; one class a form.

A column receives the factors of a batch as the backward pass hands them over, and writes them to its arrays when
the batch is complete: a batch that was cut short leaves nothing, and writing one again changes nothing.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from undertow.data.tokenize import Encoded
from undertow.gradients.layouts import Layout
from undertow.gradients.local import batched, linear_gradient, norm_gradient
from undertow.gradients.matrices import DenseGradients, FactoredGradients, Gradients, SparseGradients

# Gives an array of this shape and precision, in memory or on disk, zero at first.
Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]


@dataclass(frozen=True)
class Batch:
    """What a column must know of a batch.

    Attributes:
        positions: sample of each row, [b].
        mask: which places of the padded batch hold tokens, [b, width].
    """

    positions: Int[Tensor, " b"]
    mask: Tensor


class SharedInputError(Exception):
    """A module saw one input for all samples of a batch: only batches of one tell the samples apart."""


@runtime_checkable
class Column(Protocol):
    """Arrays of one module."""

    def receive(self, batch: Batch, x: Tensor | None, delta: Tensor) -> None:
        """Take the factors of one run of the module."""

    def commit(self, batch: Batch) -> Tensor:
        """Write what was received of a batch; says which of its samples are finite as they are kept, [b]."""

    def discard(self) -> None:
        """Forget what was received of a batch that was not completed."""

    def matrix(self) -> Gradients:
        """The gradients of all samples."""


@dataclass
class DenseColumn:
    """[n, size] as it is, or after the two-sided projection."""

    layout: Layout
    samples: int
    dtype: torch.dtype
    allocate: Allocate
    values: Tensor = field(init=False)
    _pending: Tensor | None = None

    def __post_init__(self) -> None:
        self.values = self.allocate("dense", (self.samples, self.layout.size), self.dtype)

    def receive(self, batch: Batch, x: Tensor | None, delta: Tensor) -> None:
        """Take the factors of one run; runs add up."""
        assert x is not None
        if self.layout.shared:  # batches hold one sample, and all that comes in is its own
            x, delta = x.reshape(1, -1, x.shape[-1]), delta.reshape(1, -1, delta.shape[-1])
        _check_rows(batch, x)
        gradient = self._gradient(x, delta)
        self._pending = gradient if self._pending is None else self._pending + gradient

    def commit(self, batch: Batch) -> Tensor:
        """Write the rows of a batch; a module that was not reached has gradient zero."""
        rows: Tensor = torch.zeros(len(batch.positions), self.layout.size)
        if self._pending is not None:
            rows = self._pending
        self._pending = None
        kept = rows.to(device="cpu", dtype=self.dtype)
        self.values.index_copy_(0, batch.positions, kept)
        return _finite(kept)

    def discard(self) -> None:
        """Forget what was received."""
        self._pending = None

    def matrix(self) -> DenseGradients:
        """The gradients of all samples."""
        return DenseGradients(self.values)

    def _gradient(self, x: Tensor, delta: Tensor) -> Tensor:
        layout = self.layout
        if layout.operation == "norm":
            return norm_gradient(x, delta, bias=layout.bias)
        if layout.project is None:
            return linear_gradient(x, delta, bias=layout.bias, transposed=layout.transposed)
        inputs, outputs = batched(x), batched(delta)
        if layout.bias:
            inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], dim=2)
        left, right = (m.to(inputs) for m in self._projections)
        return torch.bmm((outputs @ right).transpose(1, 2), inputs @ left).flatten(1)

    @cached_property
    def _projections(self) -> tuple[Tensor, Tensor]:
        layout = self.layout
        assert layout.project is not None
        return (
            projection(layout.inputs + layout.bias, layout.project, f"{layout.seed} {layout.key.name} inputs"),
            projection(layout.outputs, layout.project, f"{layout.seed} {layout.key.name} outputs"),
        )


@dataclass
class FactoredColumn:
    """Inputs and output gradients of all units."""

    layout: Layout
    samples: int
    dtype: torch.dtype
    allocate: Allocate
    lengths: Int[Tensor, " n"]
    starts: Tensor = field(init=False)
    _pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        units = torch.ones_like(self.lengths) if self.layout.pooled else self.lengths
        self.starts = _starts(units * self.layout.runs)
        total = int(self.starts[-1])
        self.inputs = self.allocate("inputs", (total, self.layout.inputs), self.dtype)
        self.deltas = self.allocate("deltas", (total, self.layout.outputs), self.dtype)

    def receive(self, batch: Batch, x: Tensor | None, delta: Tensor) -> None:
        """Take the factors of one run; padding is left out, its output gradient is zero."""
        assert x is not None
        _check_rows(batch, x)
        if not self.layout.pooled:
            x, delta = x[batch.mask], delta[batch.mask]
        self._pending.append((x.reshape(len(x), -1), delta.reshape(len(delta), -1)))

    def commit(self, batch: Batch) -> Tensor:
        """Write the units of a batch: of each sample, those of its first run, of its second, …"""
        finite = torch.ones(len(batch.positions), dtype=torch.bool)
        units = torch.ones_like(batch.positions) if self.layout.pooled else self.lengths[batch.positions]
        for run, (x, delta) in enumerate(self._pending):
            first = self.starts[batch.positions] + run * units
            places, owners = _ranges(first, units), torch.repeat_interleave(torch.arange(len(units)), units)
            for array, values in ((self.inputs, x), (self.deltas, delta)):
                kept = values.to(device="cpu", dtype=self.dtype)
                array.index_copy_(0, places, kept)
                finite[owners[~_finite(kept)]] = False
        self._pending = []
        return finite

    def discard(self) -> None:
        """Forget what was received."""
        self._pending = []

    def matrix(self) -> FactoredGradients:
        """The gradients of all samples."""
        return FactoredGradients(self.inputs, self.deltas, self.starts, self.layout.bias, self.layout.transposed)


@dataclass
class SparseColumn:
    """One row for each distinct token of each sample."""

    layout: Layout
    dtype: torch.dtype
    allocate: Allocate
    words: "Words"
    _pending: Tensor | None = None

    def __post_init__(self) -> None:
        self.values = self.allocate("rows", (len(self.words.tokens), self.layout.outputs), self.dtype)

    def receive(self, batch: Batch, x: Tensor | None, delta: Tensor) -> None:
        """Take the gradient of the embedding's output."""
        _check_rows(batch, delta)
        wide = torch.promote_types(delta.dtype, torch.float32)
        found = delta[batch.mask].to(wide)
        self._pending = found if self._pending is None else self._pending + found

    def commit(self, batch: Batch) -> Tensor:
        """Add the occurrences of each token of each sample and write the rows."""
        finite = torch.ones(len(batch.positions), dtype=torch.bool)
        found, self._pending = self._pending, None
        if found is None:
            return finite
        words = self.words
        lengths = words.offsets.diff()[batch.positions]
        occurrences = words.rows[_ranges(words.offsets[batch.positions], lengths)]
        kept = occurrences >= 0
        rows, places = torch.unique(occurrences[kept], return_inverse=True)
        total = torch.zeros(len(rows), self.layout.outputs, dtype=found.dtype)
        total.index_add_(0, places, found.cpu()[kept])
        self.values.index_copy_(0, rows, total.to(self.dtype))
        owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[kept]
        finite[owners[~_finite(total.to(self.dtype))[places]]] = False
        return finite

    def discard(self) -> None:
        """Forget what was received."""
        self._pending = None

    def matrix(self) -> SparseGradients:
        """The gradients of all samples."""
        words = self.words
        return SparseGradients(self.values, words.tokens, words.counts, words.starts, self.layout.inputs)


@dataclass(frozen=True)
class Words:
    """Distinct tokens of each sample.

    Attributes:
        tokens: token of each row, sample after sample and ascending within one, [r].
        counts: how often it occurs in its sample, [r].
        starts: first row of each sample and the end, [n + 1].
        rows: row of each occurrence, sample after sample in the order of the text, [t]; -1 for the padding
            token, whose row an embedding never trains.
        offsets: first occurrence of each sample and the end, [n + 1].
    """

    tokens: Int[Tensor, " r"]
    counts: Int[Tensor, " r"]
    starts: Int[Tensor, " n1"]
    rows: Int[Tensor, " t"]
    offsets: Int[Tensor, " n1"]


def distinct_words(encoded: Encoded, vocabulary: int, padding: int | None) -> Words:
    """Which tokens each sample has, how often, and where."""
    flat = torch.tensor([token for ids in encoded.input_ids for token in ids], dtype=torch.int64)
    lengths = torch.from_numpy(encoded.lengths)
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    kept = torch.ones_like(flat, dtype=torch.bool) if padding is None else flat != padding
    pairs, inverse, counts = torch.unique(
        (owners * vocabulary + flat)[kept], sorted=True, return_inverse=True, return_counts=True
    )
    rows = torch.full_like(flat, -1)
    rows[kept] = inverse
    distinct = torch.bincount(pairs // vocabulary, minlength=len(lengths))
    return Words(pairs % vocabulary, counts, _starts(distinct), rows, _starts(lengths))


def projection(features: int, rows: int, name: str) -> Tensor:
    """Seeded Gaussian projection [features, min(rows, features)], or the identity where nothing is saved.

    Entries have variance 1 / rows, so inner products are kept in expectation (Johnson & Lindenstrauss 1984).
    """
    if rows >= features:
        return torch.eye(features)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(features, rows, generator=generator) / math.sqrt(rows)


def _check_rows(batch: Batch, values: Tensor) -> None:
    if values.shape[0] != len(batch.positions):
        raise SharedInputError


def _starts(counts: Int[Tensor, " n"]) -> Int[Tensor, " n1"]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _ranges(first: Int[Tensor, " m"], counts: Int[Tensor, " m"]) -> Int[Tensor, " total"]:
    """first[0], first[0] + 1, …, for counts[0] numbers, then those of first[1], and so on."""
    shift = first - torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
    return torch.repeat_interleave(shift, counts) + torch.arange(int(counts.sum()))


def _finite(rows: Tensor) -> Tensor:
    """Which rows [b, d] hold no NaN or infinity, [b]."""
    # A sum that is finite has finite terms, and costs a tenth; one that overflows is looked at term by term.
    finite = rows.sum(1).isfinite()
    return finite if bool(finite.all()) else rows.isfinite().all(1)
