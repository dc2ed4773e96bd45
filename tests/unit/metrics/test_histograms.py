"""Histograms of noisy and clean samples, counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.metrics.histograms import quantile_histogram, range_histogram

HARM = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
NOISY = np.array([False, False, True, False, False, True, False, True])


def test_quantiles_by_hand():
    table = quantile_histogram(HARM, NOISY, bins=4)
    # Most harmful first: 8 (noisy), 6 | 5 (noisy), 4 | 3, 2 (noisy) | 1, 0
    assert table["start"].tolist() == [0, 0.25, 0.5, 0.75]
    assert table["stop"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["noisy"].tolist() == pytest.approx([1, 1, 1, 0])
    assert table["clean"].tolist() == pytest.approx([1, 1, 1, 2])


def test_a_sample_across_a_border_counts_by_its_parts():
    table = quantile_histogram(np.array([2.0, 1.0, 0.0]), np.array([False, True, False]), bins=2)
    assert table["noisy"].tolist() == pytest.approx([0.5, 0.5])
    assert table["clean"].tolist() == pytest.approx([1, 1])


def test_ties_spread_over_the_bins():
    table = quantile_histogram(np.zeros(8), NOISY, bins=4)
    assert table["noisy"].tolist() == pytest.approx([0.75] * 4)
    assert table["clean"].tolist() == pytest.approx([1.25] * 4)


def test_range_by_hand():
    table = range_histogram(HARM, NOISY, bins=4)
    assert table["start"].tolist() == [0, 2, 4, 6]
    assert table["stop"].tolist() == [2, 4, 6, 8]
    assert table["noisy"].tolist() == [0, 1, 1, 1]
    assert table["clean"].tolist() == [2, 1, 1, 1]


def test_constant_harm_has_a_range():
    table = range_histogram(np.full(5, 3.0), np.arange(5) < 2, bins=2)
    assert (table["start"].iloc[0], table["stop"].iloc[-1]) == (2.5, 3.5)
    assert table["noisy"].sum() == 2


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40),
    bins=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_every_sample_counts_once_wherever_its_row_is(rows: list[tuple[int, bool]], bins: int, seed: int):
    harm, noisy = np.array([float(h) for h, _ in rows]), np.array([y for _, y in rows])
    noisy[0] = True
    order = np.random.default_rng(seed).permutation(len(harm))
    for histogram in (quantile_histogram, range_histogram):
        table = histogram(harm, noisy, bins=bins)
        assert len(table) == bins
        assert table["noisy"].sum() == pytest.approx(noisy.sum())
        assert table["clean"].sum() == pytest.approx((~noisy).sum())
        assert (table >= -1e-9)[["noisy", "clean"]].all(axis=None)
        again = histogram(harm[order], noisy[order], bins=bins)
        np.testing.assert_allclose(table.to_numpy(), again.to_numpy(), atol=1e-9)


def test_refusals():
    for histogram in (quantile_histogram, range_histogram):
        with pytest.raises(ValueError, match="one bin at least, not 0"):
            histogram(HARM, NOISY, bins=0)
    with pytest.raises(ValueError, match="no sample is noisy"):
        quantile_histogram(HARM, np.zeros(8, dtype=bool))
    with pytest.raises(ValueError, match="harm of 1 of 2 samples is not finite"):
        range_histogram(np.array([0.0, np.inf]), np.array([True, False]))
