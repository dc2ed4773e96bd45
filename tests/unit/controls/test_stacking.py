import numpy as np
import pytest

from undertow.controls.stacking import (
    PROBE_WEIGHT,
    anchored_null,
    normal_scores,
    percentile,
    percentile_within,
    probe_part,
    separation,
    stacked,
)


def test_percentiles_count_ties_half():
    assert percentile(np.array([1.0, 2.0, 5.0]), np.array([1.0, 2.0, 2.0, 3.0])).tolist() == [1 / 8, 2 / 4, 1.0]


def test_percentiles_within_labels_take_off_what_a_label_adds():
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    values = random.normal(size=2000) + 5 * labels
    reference = np.ones(2000, dtype=bool)
    reference[::50] = False
    found = percentile_within(values, labels, reference)
    assert found[labels == 1].mean() == pytest.approx(found[labels == 0].mean(), abs=0.05)
    one = (labels == 1) & reference
    expected = percentile(values[:1], values[reference]), percentile(values[1:2], values[one])
    mixed = (one.sum() * expected[1] + 30 * percentile(values[1:2], values[reference])) / (one.sum() + 30)
    assert found[1] == pytest.approx(mixed[0])


def test_normal_scores_stay_finite():
    assert np.isfinite(normal_scores(np.array([0.0, 0.5, 1.0]))).all()
    assert normal_scores(np.array([0.5]))[0] == 0


def test_a_probe_that_separates_less_than_the_model_weighs_less():
    assert probe_part(0.5, 0.4) == PROBE_WEIGHT
    assert probe_part(0.2, 0.4) == pytest.approx(PROBE_WEIGHT / 2)
    assert probe_part(-0.1, 0.4) == 0


def test_separation_is_tjurs_coefficient():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    assert separation(p, np.array([0, 0, 1])) == pytest.approx(0.75 - 0.3)


def test_anchors_count_as_they_are_and_others_borrow_from_the_nearest():
    probe, trained = np.array([0.0, 1.0, 0.1]), np.array([5.0, 7.0])
    null = anchored_null(probe, np.array([1.0, 2.0, 4.0]), np.array([0, 1]), trained, 0.5)
    assert null.scores[:2].tolist() == stacked(probe[:2], trained, 0.5).tolist()
    assert sorted(null.scores[2:]) == pytest.approx(sorted(0.05 + 0.5 * trained))
    assert null.weights.tolist() == [1, 2, 2, 2]
    assert null.weights.sum() == 7
    assert null.number == pytest.approx(49 / 21)


def test_without_trained_scores_all_trusted_rows_count_alike():
    probe, weights = np.array([0.0, 1.0]), np.ones(2)
    null = anchored_null(probe, weights, np.empty(0, dtype=int), None)
    assert null.scores.tolist() == [0, 1]
    assert null.number == 2


def test_the_borrowed_null_is_that_of_good_rows():
    """Trained scores that depend on the probe's: quantiles of the stack of 300 rows, of which 100 are anchors."""
    random = np.random.default_rng(1)
    probe = random.normal(size=3000)
    trained = 0.5 * probe + random.normal(size=3000)
    null = anchored_null(probe, np.ones(3000), np.arange(1000), trained[:1000])
    whole = stacked(probe, trained)
    for tail in (0.02, 0.1, 0.3):
        assert null.tail(np.quantile(whole, [1 - tail]))[0] == pytest.approx(tail, abs=0.012)
