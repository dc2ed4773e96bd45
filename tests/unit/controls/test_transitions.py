import numpy as np
import pytest

from undertow.controls.transitions import (
    class_shares,
    likeliest_other,
    transition_matrix,
    true_classes,
    wrong_log_odds,
)

PRIOR = np.array([0.5, 0.3, 0.2])


def texts(rows: int, seed: int, sure: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and probabilities that are right of texts of these shares."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, rows, p=PRIOR)
    seen = random.normal(size=(rows, 3))
    seen[np.arange(rows), truth] += sure
    odds = np.log(PRIOR) + sure * seen
    p = np.exp(odds - odds.max(axis=1, keepdims=True))
    return truth, p / p.sum(axis=1, keepdims=True)


def test_transitions_that_made_the_labels_are_found():
    truth, p = texts(20_000, 0)
    random = np.random.default_rng(1)
    labels = truth.copy()
    moved = (truth == 1) & (random.random(len(truth)) < 0.4)  # a rule that takes class 1 for class 0
    labels[moved] = 0
    found = transition_matrix(p, labels, PRIOR)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for given in range(3):
        for true in range(3):
            assert found[given, true] == pytest.approx((truth[labels == given] == true).mean(), abs=0.03)


def test_clean_labels_show_hardly_a_transition():
    truth, p = texts(4000, 2)
    assert np.diag(transition_matrix(p, truth, PRIOR)).min() > 0.93


def test_every_step_of_the_expectation_maximisation_is_that_of_the_definition():
    _, p = texts(50, 3)
    labels = np.zeros(50, dtype=int)
    share = np.array([0.95, 0.025, 0.025])
    for _ in range(500):
        joint = [[p[i, z] / PRIOR[z] * share[z] for z in range(3)] for i in range(50)]
        share = np.mean([np.array(row) / sum(row) for row in joint], axis=0)
    expected = (share + 0.02 / 3) / 1.02
    np.testing.assert_allclose(transition_matrix(p, labels, PRIOR)[0], expected, atol=1e-5)


def test_the_posterior_weighs_text_and_label():
    p, transitions = np.array([[0.6, 0.4]]), np.array([[0.9, 0.1], [0.2, 0.8]])
    found = true_classes(p, np.array([0]), np.array([0.5, 0.5]), transitions)
    np.testing.assert_allclose(found, [[0.54 / 0.58, 0.04 / 0.58]])
    assert wrong_log_odds(found, np.array([0]))[0] == pytest.approx(np.log(0.04 / 0.54))


def test_the_likeliest_other_label_is_never_the_own():
    found, part = likeliest_other(np.array([[0.7, 0.1, 0.2], [0.0, 1.0, 0.0]]), np.array([0, 1]))
    assert found[0] == 2
    assert found[1] != 1
    assert part[0] == pytest.approx(2 / 3)


def test_no_class_has_a_share_of_nothing():
    assert class_shares(np.array([0, 0, 0]), 2).tolist() == [0.8, 0.2]
