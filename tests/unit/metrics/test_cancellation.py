"""Cancellation against tables worked out by hand and against the formula, term by term."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from undertow.metrics.cancellation import CANCELLATION_COLUMNS, Cancellation, cancellation, weight_cancellation

# Rows are samples, columns weights.
GRADIENTS = np.array(
    [
        [1.0, 2.0, 1.0, 0.0, -3.0],
        [1.0, -1.0, -1.0, 0.0, -1.0],
        [2.0, 1.0, 0.0, 0.0, 0.0],
    ]
)


def of(gradients: np.ndarray, untouched: int = 0) -> Cancellation:
    return cancellation([weight_cancellation(np.abs(gradients).sum(0), gradients.sum(0), untouched=untouched)])


def test_by_hand():
    # Absolute sums 4 4 2 0 4, sums 4 2 0 0 -4: ratios 1, 2, infinite, left out, 1.
    found = of(GRADIENTS, untouched=7)
    assert (found.weights, found.untouched) == (4, 8)
    assert found.cancellation == pytest.approx(14 / 10)
    assert found.mean == pytest.approx(4 / 3)
    assert found.std == pytest.approx(np.sqrt(2) / 3)
    assert (found.median, found.min, found.max) == (1, 1, 2)
    assert found.infinite == pytest.approx(1 / 4)
    assert list(found.row()) == list(CANCELLATION_COLUMNS)
    assert found.row()["infinite"] == 0.25


def test_single_weights_by_hand():
    ratios = weight_cancellation(np.abs(GRADIENTS).sum(0), GRADIENTS.sum(0)).ratios
    np.testing.assert_array_equal(ratios, np.array([1, 2, np.inf, np.nan, 1], dtype=np.float32))


def test_gradients_of_one_sign_do_not_cancel():
    found = of(np.abs(GRADIENTS) + 1)
    assert (found.cancellation, found.mean, found.std, found.infinite) == (1, 1, 0, 0)


def test_sums_that_vanish():
    found = of(np.array([[1.0, -2.0], [-1.0, 2.0]]))
    assert found.cancellation == np.inf
    assert found.infinite == 1
    assert found.weights == 2
    assert np.isnan([found.mean, found.std, found.median, found.min, found.max]).all()


def test_what_rounding_leaves_of_zero_counts_as_zero():
    terms = np.array([[0.1], [0.2], [-0.3]])
    assert terms.sum() != 0
    assert of(terms).infinite == 1
    assert of(np.array([[1.0], [1e-9 - 1.0]])).max == pytest.approx(2e9, rel=1e-6)


def test_tiny_gradients_do_not_overflow():
    found = of(np.array([[5e-324, 1e-300], [0.0, -0.5e-300]]))
    assert (found.min, found.max) == (1, 3)


def test_nothing_touched():
    for found, untouched in ((of(np.zeros((2, 3)), untouched=4), 7), (cancellation([]), 0)):
        assert (found.weights, found.untouched) == (0, untouched)
        assert np.isnan(list(found.row().values())[2:]).all()


@settings(max_examples=50, deadline=None)
@given(gradients=arrays(np.float64, (4, 6), elements=st.integers(-3, 3).map(float)), cut=st.integers(0, 6))
def test_modules_together_are_their_weights_together(gradients: np.ndarray, cut: int):
    parts = [weight_cancellation(np.abs(g).sum(0), g.sum(0)) for g in (gradients[:, :cut], gradients[:, cut:])]
    found, whole = cancellation(parts).row(), of(gradients).row()
    assert list(found.values()) == pytest.approx(list(whole.values()), nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(gradients=arrays(np.float64, (5, 4), elements=st.integers(-3, 3).map(float)))
def test_formula_term_by_term(gradients: np.ndarray):
    ratios, absolute, signed = [], 0.0, 0.0
    for weight in gradients.T:
        above, below = sum(abs(term) for term in weight), abs(sum(weight))
        absolute, signed = absolute + above, signed + below
        if above:
            ratios.append(above / below if below else np.inf)
    finite, found = [r for r in ratios if np.isfinite(r)], of(gradients)
    assert found.weights == len(ratios)
    if ratios:
        assert found.cancellation == pytest.approx(absolute / signed if signed else np.inf)
        assert found.infinite == pytest.approx(sum(np.isinf(ratios)) / len(ratios))
        assert found.cancellation >= 1
    if finite:
        expected = [np.mean(finite), np.std(finite), np.median(finite), min(finite), max(finite)]
        assert [found.mean, found.std, found.median, found.min, found.max] == pytest.approx(expected)


def test_refusals():
    with pytest.raises(ValueError, match="must be finite"):
        weight_cancellation(np.array([np.inf]), np.array([1.0]))
    with pytest.raises(ValueError, match="exceeds the sum of the absolute values"):
        weight_cancellation(np.array([1.0]), np.array([-2.0]))
