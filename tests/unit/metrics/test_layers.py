"""Noise ranks against a table worked out by hand and against scikit-learn."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from undertow.metrics import layers
from undertow.metrics.layers import by_group, noise_ranks, normalised_ranks

NOISY = np.array([True, False, False, True, False])


def test_ranks_by_hand():
    influence = np.array([[-2.0, 0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 1.0, 0.0, 2.0]])
    # Ranks 0 1 4 2 3 and, with a tie of two, 4 1.5 1.5 0 3; over n - 1 = 4, averaged over both queries.
    assert normalised_ranks(influence).tolist() == pytest.approx([4 / 8, 2.5 / 8, 5.5 / 8, 2 / 8, 6 / 8])


def test_ranks_of_a_module_that_sees_nothing_are_one_half():
    assert normalised_ranks(np.zeros((3, 7))).tolist() == [0.5] * 7


def test_ranks_do_not_depend_on_blocks():
    influence = np.random.default_rng(0).integers(-3, 4, (11, 20)).astype(np.float32)
    expected = ((rankdata(influence, axis=1) - 1) / 19).mean(0)
    np.testing.assert_allclose(normalised_ranks(influence), expected)
    with mock.patch.object(layers, "_BLOCK", 60):
        np.testing.assert_allclose(normalised_ranks(influence), expected)


def test_noise_ranks_by_hand():
    ranks = pd.DataFrame({"low": [0.0, 0.5, 1.0, 0.25, 0.75], "high": [1.0, 0.5, 0.25, 0.5, 0.0]})
    found = noise_ranks(ranks, NOISY, top=0.5)
    assert found.columns.tolist() == ["noisy", "clean", "mean", "top", "difference", "auroc"]
    # Noisy: rows 0 and 3; of two, the lowest half is one.
    assert found.loc["low"].tolist() == pytest.approx([0.125, 0.75, 0.5, 0.0, -0.625, 1.0])
    assert found.loc["high"].tolist() == pytest.approx([0.75, 0.25, 0.45, 0.5, 0.5, 0.5 / 6])


def test_area_is_that_of_scikit_learn():
    ranks = pd.DataFrame(np.random.default_rng(1).integers(0, 9, (60, 3)) / 8)
    noisy = np.arange(60) % 4 == 0
    found = noise_ranks(ranks, noisy)
    for column in ranks:
        assert found.loc[column, "auroc"] == pytest.approx(roc_auc_score(noisy, -ranks[column]))


def test_layers_are_means_of_their_modules():
    ranks = pd.DataFrame({"a": [0.0, 1.0, 0.5], "b": [1.0, 0.0, 0.5], "c": [0.2, 0.4, 0.6]})
    found = by_group(ranks, {"first": [0, 1], "last": [2]})
    assert found["first"].tolist() == [0.5, 0.5, 0.5]
    assert found["last"].tolist() == [0.2, 0.4, 0.6]


def test_planted_signal_is_seen_in_its_layer_alone():
    rng, noisy = np.random.default_rng(2), np.arange(400) < 80
    influence = {"deaf": rng.normal(size=(10, 400)), "sees": rng.normal(size=(10, 400)) - 2.0 * noisy}
    found = noise_ranks(pd.DataFrame({name: normalised_ranks(i) for name, i in influence.items()}), noisy)
    assert found.loc["deaf", "difference"] == pytest.approx(0, abs=0.05)
    assert found.loc["sees", "difference"] < -0.4
    assert found.loc["sees", "top"] < found.loc["sees", "noisy"] < found.loc["sees", "clean"]
    assert found["mean"].tolist() == pytest.approx([0.5, 0.5])


def test_refusals():
    ranks = pd.DataFrame({"a": np.zeros(5)})
    for noisy in (np.zeros(5, dtype=bool), np.ones(5, dtype=bool)):
        with pytest.raises(ValueError, match="noise ranks compare noisy with clean"):
            noise_ranks(ranks, noisy)
    with pytest.raises(ValueError, match="top is a share"):
        noise_ranks(ranks, NOISY, top=0.0)
    with pytest.raises(ValueError, match="not 2 and 1"):
        normalised_ranks(np.zeros((2, 1)))
