"""Gradients to try estimators on, in every form that the same matrix can be held in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from undertow.gradients.matrices import DenseGradients, FactoredGradients, Gradients, SparseGradients
from undertow.influence.block import GradientBlock
from undertow.influence.moments import Moments

from . import reference

FORMS = ("dense", "factored", "sparse")

# A few round values make ties, zero gradients, duplicates and orthogonal pairs common.
values = st.one_of(
    st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0]),
    st.floats(1e-3, 8.0),
    st.floats(-8.0, -1e-3),
)


@dataclass(frozen=True)
class Side:
    """Gradients of some queries or samples: dense [m, tokens * width], and how often each has each token, [m, tokens].

    Where a token is absent, its part of the gradient is zero.
    """

    dense: Tensor
    counts: Tensor

    def held(self, form: str) -> Gradients:
        if form == "dense":
            return DenseGradients(self.dense)
        m, vocabulary = self.counts.shape
        rows = self.dense.view(m, vocabulary, -1)
        here = self.counts > 0
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), here.sum(1).cumsum(0)])
        tokens = torch.nonzero(here)[:, 1]
        if form == "sparse":
            return SparseGradients(rows[here], tokens, self.counts[here], starts, vocabulary)
        # An embedding is a linear layer whose output gradient is one at the token.
        return FactoredGradients(rows[here], torch.eye(vocabulary, dtype=rows.dtype)[tokens], starts)

    def words(self) -> list[reference.Words]:
        rows = self.dense.view(*self.counts.shape, -1).tolist()
        return [
            {t: (row[t], int(c)) for t, c in enumerate(counts) if c > 0}
            for row, counts in zip(rows, self.counts.tolist(), strict=True)
        ]

    def __getitem__(self, which: object) -> "Side":
        return Side(self.dense[which], self.counts[which])

    def __len__(self) -> int:
        return len(self.dense)


@dataclass(frozen=True)
class Problem:
    """One module's gradients and the state of its optimiser."""

    queries: Side
    samples: Side
    moments: Moments

    def block(self, form: str = "dense") -> GradientBlock:
        return GradientBlock(self.queries.held(form), self.samples.held(form), self.moments)

    def given(self) -> reference.Given:
        m = self.moments
        adam = reference.Adam(m.first.tolist(), m.second.tolist(), m.step, m.betas, m.epsilon)
        q, s = self.queries, self.samples
        return reference.Given(q.dense.tolist(), s.dense.tolist(), q.words(), s.words(), adam)

    def part(self, queries: object = slice(None), samples: object = slice(None)) -> "Problem":
        """The problem of some queries and samples, in some order."""
        return replace(self, queries=self.queries[queries], samples=self.samples[samples])

    def times(self, queries: float | Tensor = 1.0, samples: float | Tensor = 1.0) -> "Problem":
        """The same with gradients scaled, all or each row."""
        return replace(
            self,
            queries=Side(self.queries.dense * queries, self.queries.counts),
            samples=Side(self.samples.dense * samples, self.samples.counts),
        )

    def to(self, dtype: torch.dtype) -> "Problem":
        return replace(
            self,
            queries=Side(self.queries.dense.to(dtype), self.queries.counts),
            samples=Side(self.samples.dense.to(dtype), self.samples.counts),
        )


def side(rows: Sequence[Sequence[float]], counts: Sequence[Sequence[int]]) -> Side:
    """Absent tokens lose their part of the gradient."""
    times = torch.tensor(counts, dtype=torch.int64)
    dense = torch.tensor(rows, dtype=torch.float64)
    width = dense.shape[1] // times.shape[1]
    return Side(dense * (times > 0).repeat_interleave(width, dim=1), times)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """1 to 4 queries and 1 to 6 samples with 1 to 4 tokens of width 1 or 2, some of them repeated."""
    vocabulary, width = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    d = vocabulary * width
    row = st.lists(values, min_size=d, max_size=d)
    count = st.lists(st.sampled_from([1, 1, 2, 3, 0]), min_size=vocabulary, max_size=vocabulary)
    pool = draw(st.lists(st.tuples(row, count), min_size=1, max_size=6))
    some = st.sampled_from([*pool, ([0.0] * d, [1] * vocabulary), ([0.0] * d, [0] * vocabulary)])
    sides = [side(*zip(*draw(st.lists(some, min_size=1, max_size=most)), strict=True)) for most in (4, 6)]
    first = torch.tensor(draw(row), dtype=torch.float64)
    second = torch.tensor(draw(row), dtype=torch.float64).square()
    return Problem(*sides, Moments(first, second, draw(st.integers(1, 50))))


def random_problem(q: int, n: int, d: int, seed: int = 0) -> Problem:
    """Gradients with a common part; tokens are of width 2 where d is even, and a quarter of them absent."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(d, generator=generator, dtype=torch.float64)
    rows = [torch.randn(m, d, generator=generator, dtype=torch.float64) + common for m in (q, n)]
    # Losses differ by orders of magnitude between samples, and their gradients with them.
    rows[1] *= torch.logspace(-3, 1, n, dtype=torch.float64)[:, None]
    vocabulary = d // 2 if d % 2 == 0 else d
    counts = [torch.randint(0, 4, (m, vocabulary), generator=generator) for m in (q, n)]
    for some in counts:
        some[:, 0].clamp_min_(1)
    sides = [side(r.tolist(), c.tolist()) for r, c in zip(rows, counts, strict=True)]
    first, second = torch.randn(2, d, generator=generator, dtype=torch.float64)
    return Problem(*sides, Moments(first, second.square(), 100))


def layer_problem(
    queries: Sequence[int],
    samples: Sequence[int],
    inputs: int,
    outputs: int,
    *,
    bias: bool = False,
    transposed: bool = False,
    seed: int = 0,
) -> tuple[FactoredGradients, FactoredGradients]:
    """Factored gradients of a linear layer that sees this many units of each query and sample."""
    generator = torch.Generator().manual_seed(seed)

    def held(units: Sequence[int]) -> FactoredGradients:
        x = torch.randn(sum(units), inputs, generator=generator, dtype=torch.float64) + 0.5
        delta = torch.randn(sum(units), outputs, generator=generator, dtype=torch.float64)
        starts = torch.tensor([0, *units]).cumsum(0)
        return FactoredGradients(x, delta, starts, bias, transposed)

    return held(queries), held(samples)


def by_hand(gradients: FactoredGradients) -> Tensor:
    """The weight's gradient sum of delta x^T and the bias's sum of delta, each in the layout of its parameter."""
    rows = []
    for first, last in zip(gradients.starts[:-1].tolist(), gradients.starts[1:].tolist(), strict=True):
        x, delta = gradients.inputs[first:last].double(), gradients.deltas[first:last].double()
        weight = torch.zeros(delta.shape[1], x.shape[1], dtype=torch.float64)
        for unit in range(last - first):
            weight += torch.outer(delta[unit], x[unit])
        parts = [(weight.T if gradients.transposed else weight).flatten()]
        rows.append(torch.cat([*parts, delta.sum(0)] if gradients.bias else parts))
    return torch.stack(rows)


class Sizes(TorchDispatchMode):
    """Records the number of elements of every tensor that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result
