"""Sums over the samples, weight by weight, against dense matrices built entry by entry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.gradients import cancellation
from undertow.gradients.cancellation import is_cheap, weight_sums
from undertow.gradients.matrices import DenseGradients, FactoredGradients, SparseGradients

from .stored import whole
from .test_matrices import LAYERS, dense, factored, sparse, starts_of

EXAMPLES = settings(max_examples=40, deadline=None)


def assert_sums(found: cancellation.WeightSums, expected: torch.Tensor) -> None:
    """Sums of whole numbers are exact; the order of the weights is of no account."""
    absolute, signed = expected.double().abs().sum(0), expected.double().sum(0)
    touched = found.absolute > 0
    pairs = sorted(zip(found.absolute[touched].tolist(), found.signed[touched].tolist(), strict=True))
    assert pairs == sorted((a, s) for a, s in zip(absolute.tolist(), signed.tolist(), strict=True) if a)
    assert len(found.absolute) + found.untouched == expected.shape[1]
    assert found.absolute.dtype == found.signed.dtype == torch.float64


@EXAMPLES
@given(pair=dense())
def test_dense(pair):
    found = weight_sums(pair[0])
    assert torch.equal(found.absolute, pair[1].abs().sum(0))
    assert torch.equal(found.signed, pair[1].sum(0))


@EXAMPLES
@given(pair=sparse())
def test_sparse(pair):
    assert_sums(weight_sums(pair[0]), pair[1])


@pytest.mark.parametrize(("bias", "transposed"), LAYERS)
@EXAMPLES
@given(data=st.data())
def test_factored(bias: bool, transposed: bool, data: st.DataObject):
    gradients, expected = data.draw(factored(bias, transposed))
    assert_sums(weight_sums(gradients), expected)


@pytest.mark.parametrize("numbers", [1, 7, 10**9])
def test_blocks_change_nothing(numbers: int, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-3, 4, (9, 6), generator=generator).double()
    tokens = torch.tensor([0, 2, 3, 0, 1, 2, 1, 3, 4])
    counts = [1, 3, 0, 5]
    held = [
        DenseGradients(values),
        SparseGradients(values, tokens, torch.ones_like(tokens), starts_of([3, 3, 3]), 5),
        FactoredGradients(values, values.flip(1), starts_of(counts), bias=True),
        FactoredGradients(values, values.flip(1), starts_of([1] * 9)),
    ]
    before = [weight_sums(gradients) for gradients in held]
    monkeypatch.setattr(cancellation, "_READ", numbers)
    monkeypatch.setattr(cancellation, "_NUMBERS", numbers)
    for gradients, expected in zip(held, before, strict=True):
        found = weight_sums(gradients)
        assert torch.equal(found.absolute, expected.absolute)
        assert torch.equal(found.signed, expected.signed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_stay_as_they_are(dtype: torch.dtype):
    values = torch.tensor([[1.0, -2.0], [-3.0, 4.0]], dtype=dtype)
    before = values.clone()
    tokens = torch.tensor([0, 1])
    for gradients in (
        DenseGradients(values),
        SparseGradients(values, tokens, tokens, starts_of([1, 1]), 2),
        FactoredGradients(values, values, starts_of([1, 1])),
        FactoredGradients(values, values, starts_of([2])),
    ):
        weight_sums(gradients)
        assert torch.equal(values, before)


def test_small_terms_beside_large_ones_are_not_lost():
    """In float32 the sum of these would be 2^24."""
    found = weight_sums(DenseGradients(torch.tensor([[2.0**24], [1.0], [1.0]], dtype=torch.float32)))
    assert found.signed.tolist() == [2**24 + 2]


def test_gradients_of_a_model():
    """All three forms as they are collected, with the rows that the store gives as dense ones."""
    store = whole()
    for m in range(len(store)):
        rows = store[m].rows(slice(0, store.samples)).double()
        found = weight_sums(store[m])
        touched = rows.abs().sum(0) > 0
        assert int((found.absolute > 0).sum()) == int(touched.sum())
        assert found.absolute.sum() == pytest.approx(float(rows.abs().sum()), rel=1e-5)
        assert found.signed.abs().sum() == pytest.approx(float(rows.sum(0).abs().sum()), rel=1e-5)


def test_only_factors_of_several_units_cost_more_than_reading():
    values, tokens = torch.ones(2, 3), torch.tensor([0, 1])
    assert is_cheap(DenseGradients(values))
    assert is_cheap(SparseGradients(values, tokens, tokens, starts_of([1, 1]), 4))
    assert is_cheap(FactoredGradients(values, values, starts_of([1, 1])))
    assert not is_cheap(FactoredGradients(values, values, starts_of([2])))
