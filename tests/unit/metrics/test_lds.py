"""The linear datamodeling score by hand, against scipy, and on a model that is linear in its samples."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from undertow.metrics.lds import datamodeling_score


def test_by_hand():
    masks = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=bool)
    attribution = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # Predictions 4 1 3 0 for the first query and 0 1 1 1 for the second.
    outputs = np.array([[9.0, 5.0], [7.0, 6.0], [8.0, 7.0], [1.0, 8.0]])
    found = datamodeling_score(attribution, masks, outputs)
    # First: the same order. Second: ranks 1 3 3 3 against 1 2 3 4, a covariance of 3 over √(3 · 5).
    assert found.by_query.tolist() == pytest.approx([1, 3 / np.sqrt(15)])
    assert found.mean.value == pytest.approx((1 + 3 / np.sqrt(15)) / 2)
    assert found.mean.low <= found.mean.value <= found.mean.high


def test_against_scipy():
    rng = np.random.default_rng(0)
    masks, attribution, outputs = rng.random((40, 25)) < 0.5, rng.normal(size=(6, 25)), rng.normal(size=(40, 6))
    expected = [spearmanr(masks @ a, o).statistic for a, o in zip(attribution, outputs.T, strict=True)]
    assert datamodeling_score(attribution, masks, outputs).by_query.tolist() == pytest.approx(expected)


def test_a_linear_model_is_foretold_and_noise_is_not():
    rng = np.random.default_rng(1)
    masks, effects = rng.random((60, 30)) < 0.5, rng.normal(size=(8, 30))
    outputs = masks @ effects.T
    assert datamodeling_score(effects, masks, outputs).mean.value == pytest.approx(1)
    assert datamodeling_score(-effects, masks, outputs).mean.value == pytest.approx(-1)
    noise = datamodeling_score(rng.normal(size=(8, 30)), masks, outputs).mean
    assert noise.low < 0 < noise.high


def test_interval_covers_what_the_subsets_leave_open():
    """All queries alike: what is uncertain is the correlation over the subsets, as of one query (Fisher's z)."""
    rng = np.random.default_rng(0)
    masks, effects = rng.random((50, 30)) < 0.5, rng.normal(size=30)
    outputs = (masks @ effects + 2 * rng.normal(size=50))[:, None].repeat(8, axis=1)
    found = datamodeling_score(np.tile(effects, (8, 1)), masks, outputs)
    assert len(set(found.by_query.round(9))) == 1
    width = 2 * 1.96 / np.sqrt(47) * (1 - found.mean.value**2)
    assert found.mean.high - found.mean.low == pytest.approx(width, rel=0.35)


def test_the_scale_of_each_query_does_not_matter():
    rng = np.random.default_rng(2)
    masks, attribution, outputs = rng.random((20, 9)) < 0.5, rng.normal(size=(3, 9)), rng.normal(size=(20, 3))
    scaled = attribution.astype(np.float64) * np.array([[1e-3], [7.0], [2.0]])
    first, second = (datamodeling_score(a, masks, outputs).by_query for a in (attribution, scaled))
    np.testing.assert_allclose(first, second)


def test_what_foretells_nothing_scores_zero():
    masks = np.eye(4, dtype=bool)
    assert datamodeling_score(np.zeros((1, 4)), masks, np.arange(4.0)[:, None]).by_query.tolist() == [0]
    assert datamodeling_score(np.arange(4.0)[None], masks, np.zeros((4, 1))).by_query.tolist() == [0]


def test_refusals():
    with pytest.raises(ValueError, match="three of them at least, not 2"):
        datamodeling_score(np.zeros((1, 2)), np.eye(2, dtype=bool), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="must be finite"):
        datamodeling_score(np.array([[np.nan] * 3]), np.eye(3, dtype=bool), np.zeros((3, 1)))
