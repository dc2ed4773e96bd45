import numpy as np
import pytest

from undertow.controls.shift import compare_texts, effective_number


def texts(rows: int, trusted: int, apart: float, seed: int = 0):
    random = np.random.default_rng(seed)
    states = random.normal(size=(rows + trusted, 24))
    states[rows:, 0] += apart
    lengths = random.integers(4, 20, rows + trusted)
    labels = random.integers(0, 2, rows + trusted)
    p = np.where(labels[:, None] == np.arange(2), 0.8, 0.2)
    return states, lengths, p, labels


def test_texts_alike_are_not_told_apart_and_weigh_about_the_same():
    states, lengths, p, labels = texts(1000, 200, 0.0)
    found = compare_texts(states, lengths, p, labels, np.ones(1000))
    assert not found.differs
    assert found.auroc == pytest.approx(0.5, abs=0.06)
    assert effective_number(found.trusted) > 150


def test_texts_that_differ_are_told_and_the_weights_make_up_for_it():
    states, lengths, p, labels = texts(2000, 400, 1.5)
    found = compare_texts(states, lengths, p, labels, np.ones(2000))
    assert found.differs
    assert found.auroc > 0.75
    assert effective_number(found.trusted) < 250
    mean = np.average(states[2000:, 0], weights=found.trusted)
    assert abs(mean) < 0.5 * abs(states[2000:, 0].mean())


def test_classes_thinned_out_by_wrong_labels_are_made_up_for():
    """Half of the rows of label 1 are wrong, so good rows hold fewer of them than trusted rows."""
    states, lengths, p, labels = texts(2000, 400, 0.0, seed=1)
    right = np.where(labels[:2000] == 1, 0.5, 1.0)
    found = compare_texts(states, lengths, p, labels, right)
    one = labels[2000:] == 1
    assert found.trusted[one].mean() / found.trusted[~one].mean() == pytest.approx(0.5, abs=0.15)


def test_the_effective_number_is_kishs():
    assert effective_number(np.ones(10)) == 10
    assert effective_number(np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_number(np.empty(0)) == 0
