"""Bootstrap intervals against scipy's and against known errors."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from undertow.metrics.intervals import Interval, bootstrap, percentiles, resamples


def test_mean_against_scipy():
    values = np.random.default_rng(0).normal(3, 2, 80)
    found = bootstrap(lambda rows: float(values[rows].mean()), 80, times=4000)
    other = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(80), rel=0.07)


def test_covers_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=60)
        found = bootstrap(lambda rows, v=values: float(v[rows].mean()), 60, times=300, seed=seed)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_seeded():
    def value(rows):
        return float(rows.sum())

    assert bootstrap(value, 20, times=50, seed=3) == bootstrap(value, 20, times=50, seed=3)
    assert bootstrap(value, 20, times=50, seed=3) != bootstrap(value, 20, times=50, seed=4)


def test_strata_keep_their_sizes():
    strata = np.array(["a", "b", "b", "a", "b"])
    for rows in resamples(5, strata=strata, times=50):
        assert sorted(strata[rows]) == ["a", "a", "b", "b", "b"]
    sizes = {int((strata[rows] == "a").sum()) for rows in resamples(5, times=50)}
    assert len(sizes) > 2


def test_undefined_resamples_are_left_out():
    assert percentiles(1.0, np.array([np.nan, 2.0, 2.0])) == Interval(1.0, 2.0, 2.0)
    empty = percentiles(1.0, np.array([np.nan]))
    assert empty.value == 1
    assert np.isnan([empty.low, empty.high]).all()


def test_quantiles_by_hand():
    # 0 to 1000 in steps of 1: 2.5% and 97.5% of the way.
    assert percentiles(0.0, np.arange(1001.0)) == Interval(0.0, 25.0, 975.0)
