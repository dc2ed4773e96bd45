"""The three forms of gradients against dense matrices built entry by entry."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.gradients.matrices import (
    DenseGradients,
    FactoredGradients,
    SparseGradients,
    slices,
)

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NARROW = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def numbers(draw: st.DrawFn, *shape: int) -> Tensor:
    """Small whole numbers: sums and products of them are exact in whatever order."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randint(-3, 4, shape, generator=generator).double()


def starts_of(counts: list[int]) -> Tensor:
    return torch.tensor([sum(counts[:i]) for i in range(len(counts) + 1)])


@st.composite
def factored(draw: st.DrawFn, bias: bool, transposed: bool) -> tuple[FactoredGradients, Tensor]:
    """A layer seen by samples of 0 to 4 units, and its dense gradients from loops."""
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    if draw(st.booleans()):
        counts = [1] * len(counts)  # behind a pooler
    i, o = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    x, delta = numbers(draw, sum(counts), i), numbers(draw, sum(counts), o)
    starts = starts_of(counts)
    rows = []
    for sample in range(len(counts)):
        weight, total = torch.zeros(o, i).double(), torch.zeros(o).double()
        for unit in range(int(starts[sample]), int(starts[sample + 1])):
            for a in range(o):
                total[a] += delta[unit, a]
                for b in range(i):
                    weight[a, b] += delta[unit, a] * x[unit, b]
        flat = (weight.T if transposed else weight).reshape(-1)
        rows.append(torch.cat([flat, total]) if bias else flat)
    return FactoredGradients(x, delta, starts, bias, transposed), torch.stack(rows)


@st.composite
def sparse(draw: st.DrawFn) -> tuple[SparseGradients, Tensor]:
    """Word embeddings seen by samples of any number of distinct tokens, and their dense gradients from loops."""
    vocabulary, width = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    some = st.sets(st.integers(0, vocabulary - 1)).map(sorted)
    words = draw(st.lists(some, min_size=1, max_size=5))
    tokens = torch.tensor([t for ts in words for t in ts], dtype=torch.int64)
    values = numbers(draw, len(tokens), width)
    found = SparseGradients(values, tokens, torch.ones_like(tokens), starts_of([len(ts) for ts in words]), vocabulary)
    expected, row = torch.zeros(len(words), vocabulary, width).double(), 0
    for sample, held in enumerate(words):
        for token in held:
            expected[sample, token] = values[row]
            row += 1
    return found, expected.reshape(len(words), -1)


@st.composite
def dense(draw: st.DrawFn) -> tuple[DenseGradients, Tensor]:
    values = numbers(draw, draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    return DenseGradients(values), values


def part_of(draw: st.DrawFn, count: int) -> slice:
    first = draw(st.integers(0, count))
    return slice(first, draw(st.integers(first, count)))


LAYERS = [(bias, transposed) for bias in (False, True) for transposed in (False, True)]
FORMS = {
    "dense": dense(),
    "sparse": sparse(),
    **{f"factored{' bias' * b}{' transposed' * t}": factored(b, t) for b, t in LAYERS},
}


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(st.data())
def test_rows_norms_and_sums(form: str, data: st.DataObject):
    found, expected = data.draw(FORMS[form])
    assert (found.samples, found.size) == expected.shape
    assert found.dtype == torch.float64
    which = part_of(data.draw, found.samples)
    torch.testing.assert_close(found.rows(which), expected[which], rtol=0, atol=0)
    for whole, wanted in ((found, expected), (found.select(which), expected[which])):
        assert whole.samples == len(wanted)
        assert whole.squares.dtype == whole.sums.dtype == torch.float64
        torch.testing.assert_close(whole.squares, wanted.square().sum(1))
        torch.testing.assert_close(whole.sums, wanted.sum(1), rtol=0, atol=0)
        torch.testing.assert_close(whole.rows(slice(0, whole.samples)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("bias", "transposed"), LAYERS)
@EXAMPLES
@given(st.data())
def test_gradients_of_some_output_features(bias: bool, transposed: bool, data: st.DataObject):
    found, expected = data.draw(factored(bias, transposed))
    i, o = found.inputs.shape[1], found.deltas.shape[1]
    which, columns = part_of(data.draw, found.samples), part_of(data.draw, o)
    weight = expected[:, : i * o].reshape(-1, *((i, o) if found.transposed else (o, i)))
    joined = weight.transpose(1, 2) if found.transposed else weight
    if found.bias:
        joined = torch.cat([joined, expected[:, i * o :, None]], dim=2)
    block = found.outputs(which, columns)
    torch.testing.assert_close(block, joined[which, columns].flatten(1), rtol=0, atol=0)


@EXAMPLES
@given(factored(bias=True, transposed=False))
def test_units_have_owners(case: tuple[FactoredGradients, Tensor]):
    found, _ = case
    counts = found.starts.diff().tolist()
    assert found.owners.tolist() == [sample for sample, count in enumerate(counts) for _ in range(count)]
    assert found.single == (set(counts) == {1})


@EXAMPLES
@given(st.data(), sparse())
def test_keeping_some_rows(data: st.DataObject, case: tuple[SparseGradients, Tensor]):
    found, expected = case
    count = len(found.tokens)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=torch.bool)
    wanted = expected.reshape(found.samples, found.vocabulary, -1).clone()
    for row in range(count):
        if not mask[row]:
            wanted[found.owners[row], found.tokens[row]] = 0
    kept = found.keep(mask)
    assert kept.tokens.tolist() == found.tokens[mask].tolist()
    torch.testing.assert_close(kept.rows(slice(0, kept.samples)), wanted.flatten(1), rtol=0, atol=0)


@EXAMPLES
@given(sparse())
def test_rows_token_by_token(case: tuple[SparseGradients, Tensor]):
    found, expected = case
    order = found.by_token
    assert order.tokens.tolist() == sorted(set(found.tokens.tolist()))
    cube, seen = expected.reshape(found.samples, found.vocabulary, -1), 0
    for place, token in enumerate(order.tokens.tolist()):
        rows = slice(int(order.starts[place]), int(order.starts[place + 1]))
        owners = order.owners[rows].tolist()
        assert owners == [s for s in range(found.samples) if token in found.tokens[found.owners == s].tolist()]
        torch.testing.assert_close(order.values[rows], cube[owners, token], rtol=0, atol=0)
        seen += len(owners)
    assert seen == len(found.tokens) == int(order.starts[-1])


@EXAMPLES
@given(sparse())
def test_norms_of_rows(case: tuple[SparseGradients, Tensor]):
    found, _ = case
    expected = torch.tensor([sum(v * v for v in row) for row in found.values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found.row_squares, expected)


@NARROW
def test_narrow_values_are_computed_with_in_float32(dtype: torch.dtype):
    torch.manual_seed(0)
    x, delta, starts = torch.randn(5, 3).to(dtype), torch.randn(5, 2).to(dtype), torch.tensor([0, 2, 2, 5])
    tokens = torch.tensor([1, 4, 0, 1, 4])
    for made in (
        DenseGradients(x),
        FactoredGradients(x, delta, starts, bias=True),
        SparseGradients(x, tokens, torch.ones_like(tokens), starts, 6),
    ):
        assert made.dtype == torch.float32
        rows = made.rows(slice(0, made.samples))
        assert rows.dtype == torch.float32
        assert made.squares.dtype == made.sums.dtype == torch.float64
        torch.testing.assert_close(made.squares, rows.double().square().sum(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(made.sums, rows.double().sum(1), rtol=1e-5, atol=1e-6)


def test_norms_do_not_overflow_in_float16():
    values = torch.full((2, 4), 60_000.0).half()
    assert DenseGradients(values).squares.tolist() == pytest.approx([4 * 60_000.0**2] * 2, rel=1e-3)


@pytest.mark.parametrize(("count", "width", "limit"), [(10, 3, 9), (10, 3, 1), (1, 5, 100), (0, 5, 10), (7, 0, 3)])
def test_blocks_cover_all_rows_within_their_limit(count: int, width: int, limit: int):
    cut = slices(count, width, limit)
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(count))
    assert cut
    for part in cut:
        assert (part.stop - part.start) * width <= limit or part.stop - part.start == 1


def test_norms_in_blocks(monkeypatch: pytest.MonkeyPatch):
    values = torch.arange(12.0).reshape(4, 3)
    monkeypatch.setattr("undertow.gradients.matrices.slices", lambda count, width: slices(count, width, 3))
    assert DenseGradients(values).squares.tolist() == pytest.approx((values**2).sum(1).tolist())
    assert DenseGradients(values).sums.tolist() == values.sum(1).tolist()
