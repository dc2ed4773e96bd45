"""Rank correlations of harm vectors against scipy and against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr

from undertow.metrics.agreement import agreement

HARMS = {
    "a": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    "b": np.array([1.0, 2.0, 3.0, 5.0, 4.0]),
    "c": np.array([5.0, 4.0, 3.0, 2.0, 1.0]),
}


def test_by_hand():
    # One exchange of neighbours: Spearman 1 - 6*2/(5*24), Kendall (9 - 1)/10.
    assert agreement(HARMS).loc["a", "b"] == pytest.approx(0.9)
    assert agreement(HARMS, how="kendall").loc["a", "b"] == pytest.approx(0.8)
    assert agreement(HARMS).loc["a", "c"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("how", "reference"),
    [("spearman", lambda a, b: spearmanr(a, b).statistic), ("kendall", lambda a, b: kendalltau(a, b).statistic)],
)
def test_against_scipy_with_ties(how, reference):
    frame = pd.DataFrame(np.random.default_rng(0).integers(0, 6, (80, 4)).astype(float), columns=list("wxyz"))
    frame.index = frame.index[::-1]  # positions count, not labels
    rows = np.arange(80) % 3 == 0
    for chosen in (None, rows):
        found, part = agreement(frame, how=how, rows=chosen), frame if chosen is None else frame[chosen]
        assert found.index.tolist() == found.columns.tolist() == list("wxyz")
        for a in frame:
            for b in frame:
                assert found.loc[a, b] == pytest.approx(reference(part[a], part[b]))


def test_only_the_order_counts():
    changed = {name: np.exp(values) for name, values in HARMS.items()}
    pd.testing.assert_frame_equal(agreement(changed), agreement(HARMS))


def test_a_constant_vector_has_no_order():
    found = agreement({"a": HARMS["a"], "flat": np.zeros(5)})
    assert np.isnan(found.loc["a", "flat"])
    assert found.loc["a", "a"] == 1


def test_refusals():
    with pytest.raises(ValueError, match="harms of b hold NaN"):
        agreement({"a": HARMS["a"], "b": np.array([0.0, np.nan, 1.0, 2.0, 3.0])})
    with pytest.raises(ValueError, match="two samples at least, not 1"):
        agreement(HARMS, rows=np.arange(5) == 2)
