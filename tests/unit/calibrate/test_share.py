import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.calibrate.evidence import Seen
from undertow.calibrate.mixture import flip_shares
from undertow.calibrate.share import doubts, estimate_share
from undertow.calibrate.told import SURE, Reading, Told, forgotten, read_by, unlearned_class

from .scores import modelled


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("memory", [0.2, 0.4])
def test_the_share_is_found_whatever_the_model_remembers(share: float, memory: float):
    found = []
    for seed in range(4):
        made = modelled(share, seed=seed, memory=memory)
        found.append(estimate_share(made.rest, made.canaries, made.trusted, times=2, seed=seed).value)
    assert np.mean(found) == pytest.approx(share, abs=0.03)


def held_out(told: Told) -> Told:
    """Of a model that did not learn from these rows."""
    return Told(told.probabilities, told.labels, held_out=True)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_nothing_is_taken_off_what_was_not_learned(share: float):
    found = []
    for seed in range(4):
        made = modelled(share, seed=seed, memory=0.0)
        told = estimate_share(held_out(made.rest), held_out(made.canaries), held_out(made.trusted), times=50, seed=seed)
        assert told.memory == 0
        assert told.low <= told.value <= told.high
        found.append(told.value)
    assert np.mean(found) == pytest.approx(share, abs=0.03)
    again = estimate_share(made.rest, made.canaries, made.trusted, times=2)
    assert again.memory > 0


@pytest.mark.parametrize(("classes", "timid"), [(4, 1.0), (2, 2.0)])
def test_more_classes_and_a_timid_model(classes: int, timid: float):
    made = modelled(0.2, seed=1, rows=3000, canaries=200, classes=classes, timid=timid)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=2)
    assert found.value == pytest.approx(0.2, abs=0.04)
    assert found.reading.power == pytest.approx(timid, rel=0.15)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("lean", [-1.5, 2.0])
def test_a_model_that_leans_towards_a_class(share: float, lean: float):
    found = []
    for seed in range(4):
        made = modelled(share, seed=seed, lean=lean)
        told = estimate_share(made.rest, made.canaries, made.trusted, times=2, seed=seed)
        found.append(told.value)
        assert told.reading.bias[1] - told.reading.bias[0] == pytest.approx(-lean, abs=0.5)
    assert np.mean(found) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(
    ("share", "of_first", "first_kept"), [(0.2, 8.0, 1.0), (0.3, 8.0, 1.0), (0.2, 1.0, 0.4), (0.0, 1.0, 0.4)]
)
def test_flips_of_one_class_and_another_share_of_the_classes(share: float, of_first: float, first_kept: float):
    found, true = [], []
    for seed in range(4):
        made = modelled(share, seed=seed, rows=2000, of_first=of_first, first_kept=first_kept)
        found.append(estimate_share(made.rest, made.canaries, made.trusted, times=2, seed=seed).value)
        true.append(made.bad.mean())
    assert np.mean(found) == pytest.approx(np.mean(true), abs=0.03)


def test_the_label_that_flips_went_to_holds_more_of_them():
    made = modelled(0.2, seed=0, rows=4000, of_first=1e6)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=2)
    alike = modelled(0.2, seed=0, rows=4000)
    equal = estimate_share(alike.rest, alike.canaries, alike.trusted, times=2)
    sizes = np.bincount(made.rest.labels) / len(made.rest)
    assert found.of_label[1] > 2 * found.of_label[0]
    assert sizes @ found.of_label == pytest.approx(found.value)
    assert equal.of_label[1] == pytest.approx(equal.of_label[0], abs=0.06)


def test_where_nothing_is_wrong_the_smaller_label_is_still_doubted_more():
    """Flips of all classes alike put more wrong rows, of its own few, into the smaller one."""
    made = modelled(0.0, seed=1, rows=2000, first_kept=0.4)
    few = Told(made.trusted.probabilities, made.trusted.labels).take(
        np.flatnonzero((made.trusted.labels == 1) | (np.arange(len(made.trusted)) % 3 == 0))
    )
    found = estimate_share(made.rest, made.canaries, few, times=2)
    assert found.value < 0.02
    assert found.of_label[0] > found.of_label[1] > 0


def test_separation_is_how_well_trusted_rows_are_told_apart():
    sure = np.array([[0.99, 0.01], [0.98, 0.02], [0.02, 0.98], [0.01, 0.99]] * 50)
    labels = np.array([0, 0, 1, 1] * 50)
    assert read_by(Told(sure, labels)).separation > 0.9
    assert abs(read_by(Told(sure, np.arange(200) % 2)).separation) < 0.05


@settings(deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5), st.floats(0.0, 0.6))
def test_flips_alike_are_counted(weights: list[float], alike: float):
    priors = np.array(weights) / sum(weights)
    classes = len(priors)
    table = np.full((classes, classes), alike / (classes - 1))  # rows: true class, columns: label
    np.fill_diagonal(table, 1 - alike)
    rows = priors[:, None] * table
    expected = 1 - np.diag(rows) / rows.sum(axis=0)
    assert flip_shares(priors, np.array([alike]))[:, 0] == pytest.approx(np.clip(expected, SURE, 1 - SURE))


def test_where_canaries_stand_bounds_the_share_from_above():
    """The model says little, so the share could be anything; canaries that stand out far do not go with much wrong."""
    made, random = modelled(0.05, seed=0, sure=0.3), np.random.default_rng(0)
    far = Seen(np.linspace(0, 1, len(made.rest)), 1 - 0.15 * random.random(len(made.canaries)))
    near = Seen(far.rest, random.random(len(made.canaries)))
    alone, bounded, unbounded = (
        estimate_share(made.rest, made.canaries, made.trusted, seen, times=30) for seen in (None, far, near)
    )
    assert alone.high > 0.3
    assert bounded.high < 0.2
    assert unbounded.high > 0.3


def test_no_evidence_of_errors_is_no_proof_that_there_are_none():
    made = modelled(0.0, seed=2, sure=8)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=10)
    assert found.high >= 3 / len(made.rest)


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


def test_a_model_that_hardly_tells_classes_apart_is_not_heard_of_a_difference_between_texts():
    """The training texts look a little more like the second class than the trusted ones; nothing else is known."""
    made, random = modelled(0.3, seed=0, sure=0.02), np.random.default_rng(0)
    logits = np.log(made.rest.probabilities) + np.array([0.0, 0.05])
    moved = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rest = Told(moved, (random.random(len(moved)) < 0.8).astype(int))
    found = estimate_share(rest, made.canaries, made.trusted, times=20)
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
        names = np.argsort(order)
        taught = None if told.taught is None else names[told.taught[rows]]
        return Told(told.probabilities[rows][:, order], names[told.labels[rows]], taught)

    found = estimate_share(made.rest, made.canaries, made.trusted, times=1)
    again = estimate_share(moved(made.rest), moved(made.canaries), moved(made.trusted), times=1)
    assert again.value == pytest.approx(found.value)
    assert again.memory == found.memory
    assert again.of_label == pytest.approx(found.of_label[order])
    assert again.reading.power == pytest.approx(found.reading.power, rel=1e-3)
    assert again.reading.bias == pytest.approx(found.reading.bias[order], abs=1e-3)


def test_what_is_remembered_is_taken_off():
    made = modelled(0.2, seed=0, rows=50, memory=0.4)
    logs = forgotten(made.rest, Reading(1.0, np.zeros(2), np.full(2, 0.5), 0.5), 0.4)
    back = logs - np.logaddexp.reduce(logs, axis=1)[:, None]
    without = modelled(0.2, seed=0, rows=50, memory=0.0)
    assert back == pytest.approx(np.log(without.rest.probabilities), abs=0.01)
    assert read_by(made.trusted).power == pytest.approx(1, rel=0.2)
