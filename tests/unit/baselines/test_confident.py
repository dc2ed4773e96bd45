"""Confident learning through cleanlab."""

import sys

import numpy as np
import pytest

from undertow.baselines.confident import confident_learning_harm, held_out_probabilities
from undertow.errors import ConfigError, DataError


def clusters(n: int = 60, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % classes
    states = 4 * np.eye(classes, 5)[labels] + np.random.default_rng(seed).normal(size=(n, 5))
    return states.astype(np.float32), labels


def test_harm_is_minus_the_normalised_margin():
    states, labels = clusters()
    probabilities = held_out_probabilities(states, labels, seed=4)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    others = np.where(np.eye(3, dtype=bool)[labels], -1, probabilities).max(1)
    expected = -(probabilities[np.arange(60), labels] - others + 1) / 2
    np.testing.assert_allclose(confident_learning_harm(states, labels, seed=4), expected, atol=1e-12)


def test_no_sample_teaches_what_is_predicted_of_it():
    # Labels without any pattern: a classifier that had seen them would know them by heart.
    rng = np.random.default_rng(0)
    states, labels = rng.normal(size=(100, 80)), np.arange(100) % 2
    right = held_out_probabilities(states, labels, seed=0).argmax(1) == labels
    assert 0.3 < right.mean() < 0.7


def test_labels_need_not_be_consecutive():
    states, labels = clusters()
    np.testing.assert_array_equal(
        confident_learning_harm(states, np.array([1, 4, 9])[labels]), confident_learning_harm(states, labels)
    )


def test_a_constant_dimension_is_harmless():
    states, labels = clusters()
    states[:, 4] = 0
    states[::2, 4] = -0.0
    positive = np.abs(states) * np.sign(states)
    found = confident_learning_harm(states, labels)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(confident_learning_harm(positive, labels), found)


def test_states_that_differ_by_a_rounding_get_the_same_folds():
    # Labels without any pattern, nearly as many dimensions as rows: other folds would say quite another thing.
    rng = np.random.default_rng(0)
    states, labels = rng.normal(size=(100, 80)).astype(np.float32), np.arange(100) % 2
    rounded = states * (1 + np.float32(2e-7) * rng.choice([-1, 1], size=states.shape).astype(np.float32))
    assert (rounded != states).mean() > 0.5
    found = held_out_probabilities(states, labels, seed=0)
    np.testing.assert_allclose(held_out_probabilities(rounded, labels, seed=0), found, atol=1e-3)
    assert np.abs(held_out_probabilities(states, labels, seed=1) - found).max() > 0.3


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    states, labels = rng.normal(size=(100, 80)), np.arange(100) % 2
    states[40:50] = states[50:60]  # equal states of equal labels, and of other ones
    labels[45:50] = 1 - labels[55:60]
    order = rng.permutation(100)
    found = held_out_probabilities(states, labels, seed=0)
    np.testing.assert_allclose(held_out_probabilities(states[order], labels[order], seed=0), found[order], atol=1e-4)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((20, 4, 6), r"at least 5 samples; class 1 has 4\."),
        ((2, 20, 1), r"class 0 has 2, class 2 has 1\."),
        ((0, 0, 20), r"All samples are of class 2"),
    ],
)
def test_classes_that_are_too_small(counts: tuple[int, ...], message: str):
    labels = np.repeat([0, 1, 2], counts)
    with pytest.raises(DataError, match=message):
        confident_learning_harm(np.ones((len(labels), 2)), labels)


def test_without_cleanlab_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(ConfigError, match=r"pip install 'undertow\[cleanlab\]'$"):
        confident_learning_harm(*clusters())
