"""Correlation of a proxy with an outcome, by hand and against scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from undertow.metrics.proxies import proxy_correlation, spearman

BLOCKS = pd.MultiIndex.from_tuples([("sst2", 0), ("sst2", 1), ("rte", 0)], names=["task", "seed"])
OUTCOME = pd.DataFrame([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7], [0.6, 0.5, 0.4]], BLOCKS, list("abc"))


def test_by_hand():
    proxy = pd.DataFrame([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]], BLOCKS, list("abc"))
    found = proxy_correlation(proxy, OUTCOME, times=200)
    assert found.by_block.tolist() == pytest.approx([1, 0.5, -1])
    assert found.by_block.index.equals(BLOCKS)
    assert found.within.value == pytest.approx(0.5 / 3)
    assert found.overall.value == pytest.approx(
        spearmanr(proxy.to_numpy().ravel(), OUTCOME.to_numpy().ravel()).statistic
    )
    assert (found.within.low, found.within.high) == pytest.approx((-1, 1))


def test_tasks_are_not_configurations():
    """A proxy that tells easy tasks from hard ones, and configurations not at all, correlates overall alone."""
    rng = np.random.default_rng(0)
    level = np.arange(40)[:, None] / 40
    proxy, outcome = (pd.DataFrame(level + 0.001 * rng.normal(size=(40, 6))) for _ in range(2))
    found = proxy_correlation(proxy, outcome, times=200)
    assert found.overall.value > 0.98
    assert found.within.low < 0 < found.within.high


def test_a_block_that_is_all_alike_is_left_out():
    proxy = pd.DataFrame([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]], BLOCKS, list("abc"))
    found = proxy_correlation(proxy, OUTCOME, times=50)
    assert np.isnan(found.by_block.iloc[1])
    assert found.within.value == pytest.approx(1)
    flat = proxy_correlation(proxy * 0, OUTCOME, times=20)
    assert np.isnan([flat.within.value, flat.overall.value, flat.within.low]).all()


def test_rows_and_columns_are_matched_by_name():
    proxy = OUTCOME * 2
    turned = proxy.loc[BLOCKS[::-1], ["c", "a", "b"]]
    found = proxy_correlation(turned, OUTCOME, times=20)
    assert found.by_block.tolist() == pytest.approx([1, 1, 1])
    assert found.overall.value == pytest.approx(1)


def test_spearman_with_ties():
    a, b = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_refusals():
    with pytest.raises(ValueError, match="the same blocks and the same configurations"):
        proxy_correlation(OUTCOME.iloc[:2], OUTCOME)
    with pytest.raises(ValueError, match="two configurations at least, not 1"):
        proxy_correlation(OUTCOME[["a"]], OUTCOME[["a"]])
    with pytest.raises(ValueError, match="no empty cell"):
        proxy_correlation(OUTCOME.where(OUTCOME > 0.5), OUTCOME)
