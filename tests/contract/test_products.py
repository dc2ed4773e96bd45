"""Inner products of gradients in every form, against sums written out."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.gradients.matrices import DenseGradients, FactoredGradients, Gradients, SparseGradients, slices
from undertow.influence import products
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS

from .problems import Sizes, by_hand, layer_problem

quick = settings(max_examples=25, deadline=None)
WAYS = ("factors", "blocks")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}

# How many units, or distinct tokens, each sample has; none is possible.
lengths = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sparse(tokens: Sequence[Sequence[int]], vocabulary: int, width: int, seed: int = 0) -> SparseGradients:
    """Gradients of samples that have these tokens, each ascending."""
    counts = torch.tensor([len(t) for t in tokens], dtype=torch.int64)
    flat = torch.tensor([t for some in tokens for t in some], dtype=torch.int64)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return SparseGradients(noise(len(flat), width, seed=seed), flat, torch.ones_like(flat), starts, vocabulary)


def spread(gradients: SparseGradients) -> Tensor:
    """Rows at the places of their tokens, zero elsewhere."""
    width = gradients.values.shape[1]
    dense = torch.zeros(gradients.samples, gradients.vocabulary * width, dtype=torch.float64)
    for i in range(gradients.samples):
        for row in range(int(gradients.starts[i]), int(gradients.starts[i + 1])):
            at = int(gradients.tokens[row]) * width
            dense[i, at : at + width] = gradients.values[row].double()
    return dense


def brute(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([torch.stack([(a * b).sum() for b in right]) for a in left])


def assert_products(left: Gradients, right: Gradients, a: Tensor, b: Tensor, rtol: float = 1e-12) -> None:
    """All that the file offers, and what matrices say of themselves, against the dense a and b in float64."""
    weights = noise(len(a), len(b), seed=5)

    def close(found: Tensor, expected: Tensor, size: Tensor) -> None:
        assert found.dtype == left.dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=rtol * float(1 + size.abs().max()))

    norms = b.norm(dim=1)
    close(products.inner(left, right), brute(a, b), a.norm(dim=1)[:, None] * norms)
    close(products.gram(right), brute(b, b), norms[:, None] * norms)
    close(products.gram_product(weights.to(right.dtype), right), weights @ b @ b.T, len(b) * norms[:, None] * norms)
    torch.testing.assert_close(right.squares, b.square().sum(1), rtol=rtol, atol=rtol)
    torch.testing.assert_close(right.sums, b.sum(1), rtol=rtol, atol=rtol * float(1 + b.abs().sum(1).max()))


def narrowed(gradients: Gradients, dtype: torch.dtype) -> Gradients:
    if isinstance(gradients, FactoredGradients):
        return replace(gradients, inputs=gradients.inputs.to(dtype), deltas=gradients.deltas.to(dtype))
    return replace(gradients, values=gradients.values.to(dtype))


@pytest.fixture(params=["whole", "in blocks"])
def blocks(request, monkeypatch) -> None:
    """With blocks so small that everything is cut, and with none."""
    if request.param == "in blocks":
        monkeypatch.setattr(products, "_NUMBERS", 9)
        monkeypatch.setattr(products, "slices", lambda *a: slices(*a) if len(a) == 3 else slices(*a, 20))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "n", "d"), [(1, 1, 1), (3, 7, 5), (8, 2, 11)])
def test_dense(m: int, n: int, d: int, dtype: torch.dtype, blocks: None):
    left, right = (DenseGradients(noise(rows, d, seed=rows).to(dtype)) for rows in (m, n))
    assert_products(left, right, left.values.double(), right.values.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("units", ["pooled", "tokens", "a pooled query"])
def test_factored(units: str, way: str, bias: bool, dtype: torch.dtype, blocks: None, monkeypatch):
    monkeypatch.setattr(products, "way", lambda left, right: way)
    ragged = ([2, 1, 4], [3, 1, 0, 5, 2, 1])
    of = {"pooled": ([1] * 3, [1] * 6), "tokens": ragged, "a pooled query": ([1] * 3, ragged[1])}[units]
    left, right = (narrowed(g, dtype) for g in layer_problem(*of, 5, 4, bias=bias))
    assert_products(left, right, by_hand(left), by_hand(right), TOLERANCE[dtype])


@pytest.mark.parametrize("way", WAYS)
@quick
@given(queries=lengths, samples=lengths, i=st.integers(1, 4), o=st.integers(1, 4), bias=st.booleans(), data=st.data())
def test_factored_of_any_shape(
    way: str, queries: list[int], samples: list[int], i: int, o: int, bias: bool, data: st.DataObject
):
    left, right = layer_problem(queries, samples, i, o, bias=bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "way", lambda left, right: way)
        patch.setattr(products, "_NUMBERS", data.draw(st.sampled_from([1, 6, 20, 10**6])))
        assert_products(left, right, by_hand(left), by_hand(right), 1e-11)


def test_as_many_units_as_samples_is_not_one_each():
    left, right = layer_problem([2, 0, 1], [0, 2], 3, 2)
    assert_products(left, right, by_hand(left), by_hand(right))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("queries", "samples"),
    [
        ([[0]], [[0]]),
        ([[0, 2], [1, 2, 5]], [[2, 3], [0, 1, 2, 3, 4, 5], [4]]),
        ([[1]], [[0, 2], [3]]),
        ([[], [3]], [[3], [], [3, 4]]),
        ([[]], [[]]),
    ],
)
def test_sparse(queries: list[list[int]], samples: list[list[int]], dtype: torch.dtype):
    left, right = (narrowed(sparse(t, 6, 3, seed=i), dtype) for i, t in enumerate((queries, samples)))
    assert_products(left, right, spread(left), spread(right), TOLERANCE[dtype])


@st.composite
def token_sets(draw: st.DrawFn) -> list[list[int]]:
    """Some tokens of a few, so that many samples share one; and none at all."""
    return [sorted(s) for s in draw(st.lists(st.sets(st.sampled_from([0, 1, 2, 7, 40])), min_size=1, max_size=6))]


@quick
@given(queries=token_sets(), samples=token_sets(), width=st.integers(1, 3))
def test_sparse_of_any_shape(queries: list[list[int]], samples: list[list[int]], width: int):
    left, right = sparse(queries, 41, width), sparse(samples, 41, width, seed=1)
    assert_products(left, right, spread(left), spread(right), 1e-11)


def test_a_token_that_all_samples_have():
    queries, samples = sparse([[3]] * 4, 5, 2), sparse([[3, 4] if i % 3 else [3] for i in range(200)], 5, 2, seed=1)
    assert_products(queries, samples, spread(queries), spread(samples), 1e-11)


def test_two_forms_have_no_product():
    dense, held = DenseGradients(noise(2, 12)), layer_problem([1], [1], 4, 3)[0]
    with pytest.raises(TypeError, match="DenseGradients and FactoredGradients, have no product"):
        products.inner(dense, held)


def shaped(units: int, samples: int, inputs: int, outputs: int) -> FactoredGradients:
    """Takes no memory."""
    starts = torch.linspace(0, units, samples + 1).long()
    return FactoredGradients(torch.empty(1).expand(units, inputs), torch.empty(1).expand(units, outputs), starts)


def test_the_cheaper_way_is_taken():
    # One vector a sample: 100 x 1,000 pairs of 1,536 features against as many products of 589,824 numbers.
    assert products.way(shaped(100, 100, 768, 768), shaped(1000, 1000, 768, 768)) == "factors"
    # 128 tokens a sample: 16,384 times as many pairs of units, and building the gradients costs less.
    assert products.way(shaped(12_800, 100, 768, 768), shaped(128_000, 1000, 768, 768)) == "blocks"


@pytest.mark.parametrize("units", [1, 12])
def test_gram_products_by_whichever_is_cheaper(units: int, monkeypatch):
    # One unit a sample: through the gram matrix. Many units of few features: through the gradients.
    inputs, outputs = (40, 30) if units == 1 else (3, 2)
    samples = layer_problem([1], [units] * 20, inputs, outputs)[1]
    expected = noise(2, 20) @ by_hand(samples) @ by_hand(samples).T

    def refuse(*arguments: object) -> None:
        raise AssertionError("the dearer way was taken")

    if units == 1:
        monkeypatch.setattr(FactoredGradients, "outputs", refuse)
    else:
        monkeypatch.setattr(products, "inner", refuse)
    torch.testing.assert_close(products.gram_product(noise(2, 20), samples), expected, rtol=1e-11, atol=1e-9)


LINEAR_IN_GRADIENTS = ("tracin", "cosine", "covariance", "self-influence", "datainf", "datainf0", "lissa", "exact")


def test_a_large_layer_is_never_dense():
    # As large as a layer of a 7B model, one vector a sample: a single dense gradient has 45 million numbers.
    inputs, outputs, n = 4096, 11_008, 6
    queries, samples = (
        FactoredGradients(noise(m, inputs).float(), noise(m, outputs).float(), torch.arange(m + 1)) for m in (2, n)
    )
    with Sizes() as sizes:
        for name in LINEAR_IN_GRADIENTS:
            assert ESTIMATORS[name](GradientBlock(queries, samples)).shape == (2, n)
    assert sizes.largest <= n * outputs


@pytest.mark.parametrize("way", WAYS)
def test_a_large_layer_with_tokens_stays_within_blocks(way: str, monkeypatch):
    monkeypatch.setattr(products, "way", lambda left, right: way)
    monkeypatch.setattr(products, "_NUMBERS", 3000)
    inputs, outputs, n = 120, 80, 12
    queries, samples = (narrowed(g, torch.float32) for g in layer_problem([3] * 4, [5] * n, inputs, outputs))
    with Sizes() as sizes:
        for name in ("tracin", "cosine", "covariance", "self-influence", "datainf", "exact"):
            ESTIMATORS[name](GradientBlock(queries, samples))
    assert sizes.largest <= 4 * 3000 < n * inputs * outputs / 9


def test_sparse_products_hold_no_vocabulary():
    vocabulary, width, n = 50_000, 8, 40
    tokens = [sorted({(7 * i + j * j) % 90 for j in range(12)}) for i in range(n)]
    queries, samples = sparse(tokens[:3], vocabulary, width), sparse(tokens, vocabulary, width, seed=1)
    with Sizes() as sizes:
        for name in (*LINEAR_IN_GRADIENTS, "tracin-we", "tracin-we-k", "tracin-we-k-pair"):
            ESTIMATORS[name](GradientBlock(queries, samples))
    assert sizes.largest <= n * 12 * width
