import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from undertow.baselines import probe
from undertow.baselines.probe import PENALTIES, balanced, probe_probabilities
from undertow.errors import DataError


def states(n: int, classes: int, seed: int = 0, h: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    centres = random.normal(size=(classes, h)) * 1.5
    return (centres[labels] + random.normal(size=(n, h))).astype(np.float32), labels


def refitted(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Scores of each row by a ridge regression that is fitted anew on all other rows."""
    mean = weights @ x / weights.sum()
    deviation = np.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    scaled = (x - mean) / deviation
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    found = np.empty(targets.shape)
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        model = Ridge(alpha=penalty).fit(scaled[others], targets[others], sample_weight=weights[others])
        found[i] = model.predict(scaled[[i]])
    return found


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("heavy", [1.0, 10.0])
def test_rows_are_scored_as_by_a_probe_that_was_fitted_without_them(classes, heavy, monkeypatch):
    x, labels = states(40, classes)
    weights = np.where(np.arange(40) < 25, 1.0, heavy)
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    errors, scores = [], []
    for part in (0.01, 0.1, 1.0):
        refit = refitted(x.astype(np.float64), labels, weights, classes, part * weights.sum())
        scores.append(refit)
        errors.append(weights @ ((refit - targets) ** 2).sum(axis=1))
    monkeypatch.setattr(probe, "PENALTIES", np.array([0.01, 0.1, 1.0]))
    raised = np.exp(2 * scores[int(np.argmin(errors))])
    expected = raised / raised.sum(axis=1, keepdims=True)
    assert probe_probabilities(x, labels, weights, classes) == pytest.approx(expected, abs=1e-9)


def test_labels_learned_by_heart_do_not_help():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(60, 200)).astype(np.float32), random.integers(0, 2, 60)
    p = probe_probabilities(x, labels, np.ones(60), 2)
    assert 0.25 < (p.argmax(axis=1) == labels).mean() < 0.75


def test_what_can_be_told_is_told_and_wrong_labels_are_doubted():
    x, labels = states(600, 3, seed=1)
    given = labels.copy()
    given[:120] = (given[:120] + 1) % 3
    p = probe_probabilities(x, given, np.ones(600), 3)
    own = p[np.arange(600), given]
    assert (p.argmax(axis=1) == labels).mean() > 0.9
    assert own[:120].mean() < 0.5 * own[120:].mean()


def test_the_order_and_scale_of_states_do_not_matter():
    x, labels = states(80, 2, seed=2)
    weights = np.linspace(0.5, 3, 80)
    found = probe_probabilities(x, labels, weights, 2)
    order = np.random.default_rng(0).permutation(80)
    assert probe_probabilities(x[order] * 50 + 7, labels[order], weights[order], 2) == pytest.approx(
        found[order], abs=1e-4
    )


def test_a_state_that_never_changes_is_without_effect():
    x, labels = states(50, 2, seed=3)
    constant = np.concatenate([x, np.full((50, 1), 3.0, dtype=np.float32)], axis=1)
    assert probe_probabilities(constant, labels, np.ones(50), 2) == pytest.approx(
        probe_probabilities(x, labels, np.ones(50), 2), abs=1e-6
    )


def test_a_class_without_rows_gets_little():
    x, labels = states(100, 2, seed=4)
    p = probe_probabilities(x, labels, np.ones(100), 3)
    assert p.sum(axis=1) == pytest.approx(1)
    assert p[:, 2].mean() < 0.2


def test_what_cannot_be_used_is_refused():
    x, labels = states(10, 2)
    with pytest.raises(DataError, match="two or more"):
        probe_probabilities(x[:1], labels[:1], np.ones(1), 2)
    x[3, 1] = np.inf
    with pytest.raises(DataError, match="not finite"):
        probe_probabilities(x, labels, np.ones(10), 2)


def test_penalties_rise():
    assert (np.diff(PENALTIES) > 0).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_balanced_labels_weigh_the_same(labels: list[int]):
    given_labels = np.array(labels)
    weights = balanced(given_labels)
    assert weights.mean() == pytest.approx(1)
    totals = [weights[given_labels == c].sum() for c in set(labels)]
    assert totals == pytest.approx([totals[0]] * len(totals))


def test_what_tells_two_kinds_of_rows_apart_does_not_pass_for_a_label():
    """Rows of one kind mostly carry one label; a state that only tells the kinds apart must not speak for it."""
    random = np.random.default_rng(0)
    kind = np.repeat([0, 1], 500)
    labels = np.where(kind == 0, random.random(1000) < 0.85, random.random(1000) < 0.5).astype(int)
    x = np.stack([kind + 0.1 * random.normal(size=1000), random.normal(size=1000)], axis=1).astype(np.float32)
    leans = []
    for weights in (np.ones(1000), np.concatenate([balanced(labels[:500]), balanced(labels[500:])])):
        p = probe_probabilities(x, labels, weights, 2)[:, 1]
        leans.append(abs(p[kind == 0].mean() - p[kind == 1].mean()))
    assert leans[1] < 0.02
    assert leans[0] > 0.1
