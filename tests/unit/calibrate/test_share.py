import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.calibrate.share import Told, calibration_of, doubts, estimate_share, forgotten, unlearned_class

from .scores import modelled


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("memory", [0.2, 0.4])
def test_the_share_is_found_whatever_the_model_remembers(share: float, memory: float):
    found = []
    for seed in range(4):
        made = modelled(share, seed=seed, memory=memory)
        found.append(estimate_share(made.rest, made.canaries, made.trusted, times=2, seed=seed).value)
    assert np.mean(found) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("classes", "timid"), [(4, 1.0), (2, 2.0)])
def test_more_classes_and_a_timid_model(classes: int, timid: float):
    made = modelled(0.2, seed=1, rows=3000, canaries=200, classes=classes, timid=timid)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=2)
    assert found.value == pytest.approx(0.2, abs=0.04)
    assert found.temperature == pytest.approx(timid, rel=0.15)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("lean", [-1.5, 2.0])
def test_a_model_that_leans_towards_a_class(share: float, lean: float):
    found = []
    for seed in range(4):
        made = modelled(share, seed=seed, lean=lean)
        told = estimate_share(made.rest, made.canaries, made.trusted, times=2, seed=seed)
        found.append(told.value)
        assert told.bias[1] - told.bias[0] == pytest.approx(-lean, abs=0.5)
    assert np.mean(found) == pytest.approx(share, abs=0.04)


def test_a_clean_share_is_told_from_a_small_one():
    clean, some = modelled(0.0, seed=2), modelled(0.08, seed=2)
    none = estimate_share(clean.rest, clean.canaries, clean.trusted, times=60)
    little = estimate_share(some.rest, some.canaries, some.trusted, times=60)
    assert none.low == 0
    assert none.high < 0.06
    assert 0.01 < little.low < 0.08 < little.high < 0.2


def test_intervals_hold_the_truth():
    held, wide = 0, []
    for seed in range(10):
        made = modelled(0.2, seed=seed, rows=800, canaries=60)
        found = estimate_share(made.rest, made.canaries, made.trusted, times=30, seed=seed)
        held += found.low <= made.bad.mean() <= found.high
        wide.append(found.high - found.low)
    assert held >= 8
    assert np.mean(wide) < 0.2


def test_a_model_that_knows_nothing_does_not_vouch_for_the_data():
    made = modelled(0.4, seed=0, sure=0.01)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=20)
    assert found.low == 0
    assert found.high > 0.4


def test_a_class_that_the_model_misses_is_named():
    sure = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    assert unlearned_class(Told(sure, np.array([0, 0, 0, 1, 1]))) == 0
    assert unlearned_class(Told(sure, np.array([0, 1, 1, 1, 1]))) is None


def test_doubts_are_probabilities_that_hold():
    made = modelled(0.2, seed=3, rows=20000, canaries=400)
    share = estimate_share(made.rest, made.canaries, made.trusted, times=2)
    doubted = doubts(made.rest, share)
    assert doubted.mean() == pytest.approx(share.value, abs=0.01)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        mine = (doubted >= low) & (doubted <= high)
        assert made.bad[mine].mean() == pytest.approx(doubted[mine].mean(), abs=0.05)


@settings(max_examples=15, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 5))
def test_names_of_classes_and_order_of_rows_do_not_matter(names: list[int], seed: int):
    made, order = modelled(0.2, seed=seed, rows=200, canaries=50, classes=3), np.array(names)
    random = np.random.default_rng(seed)

    def moved(told: Told) -> Told:
        rows = random.permutation(len(told))
        return Told(told.probabilities[rows][:, order], np.argsort(order)[told.labels[rows]])

    found = estimate_share(made.rest, made.canaries, made.trusted, times=1)
    again = estimate_share(moved(made.rest), moved(made.canaries), moved(made.trusted), times=1)
    assert (again.value, again.memory) == (found.value, found.memory)
    assert again.temperature == pytest.approx(found.temperature, rel=1e-3)
    assert np.array(again.bias) == pytest.approx(np.array(found.bias)[order], abs=1e-3)


def test_what_is_remembered_is_taken_off():
    made = modelled(0.2, seed=0, rows=50, memory=0.4)
    logs = forgotten(made.rest, np.zeros(3), 0.4)
    back = logs - np.logaddexp.reduce(logs, axis=1)[:, None]
    without = modelled(0.2, seed=0, rows=50, memory=0.0)
    assert back == pytest.approx(np.log(without.rest.probabilities), abs=0.01)
    assert np.exp(calibration_of(made.trusted)[0]) == pytest.approx(1, rel=0.2)
