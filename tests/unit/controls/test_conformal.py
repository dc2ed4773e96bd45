"""p-values, cuts and promises against references written from their definitions, and against simulated truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.controls.conformal import (
    Null,
    discoveries,
    expected_precision,
    null_share,
    p_values,
    sure_precision,
    upper_tail,
    wrong_probability,
)

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def plain(scores: np.ndarray) -> Null:
    return Null(scores, np.ones(len(scores)), float(len(scores)))


def test_without_weights_p_values_count_controls():
    found = p_values(np.array([3.0, 2.0, 0.0]), plain(np.array([1.0, 2.0, 4.0])))
    np.testing.assert_allclose(found, [2 / 4, 3 / 4, 4 / 4])


@settings(deadline=None)
@given(SCORES, SCORES)
def test_p_values_are_those_of_the_definition(rows, controls):
    null = plain(np.array(controls, dtype=float))
    found = p_values(np.array(rows, dtype=float), null)
    expected = [(1 + sum(c >= r for c in controls)) / (1 + len(controls)) for r in rows]
    np.testing.assert_allclose(found, expected)


def test_a_higher_score_never_has_a_higher_p_value():
    random = np.random.default_rng(0)
    null = Null(random.normal(size=50), random.uniform(0.2, 5, 50), 30.0)
    scores = np.sort(random.normal(size=200))
    assert (np.diff(p_values(scores, null)) <= 1e-12).all()


def test_weights_make_up_for_another_population():
    """Controls of two kinds, of which the rows hold other shares: the tail is that of the rows' own mixture."""
    random = np.random.default_rng(1)
    kind = np.arange(20_000) % 2
    scores = random.normal(size=20_000) + 2 * kind
    null = Null(scores, np.where(kind == 1, 0.9, 0.1), 10_000.0)
    rows = random.normal(size=20_000) + 2 * (random.random(20_000) < 0.9)
    found = p_values(rows, null)
    for level in (0.1, 0.3, 0.7):
        assert (found <= level).mean() == pytest.approx(level, abs=0.02)


def test_storey_counts_rows_above_a_half():
    assert null_share(np.array([0.1, 0.2, 0.6, 0.9])) == min(1, (1 + 2) / (4 * 0.5))
    assert null_share(np.full(100, 0.01)) == pytest.approx(1 / 50)


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(0.05, 0.9), st.floats(0.1, 1))
def test_discoveries_are_the_largest_set_within_the_rate(values, rate, good):
    p = np.sort(values)
    expected = max((k for k in range(1, len(p) + 1) if p[k - 1] * good * len(p) <= rate * k), default=0)
    assert discoveries(np.array(values), rate, good) == expected


def test_the_promise_at_a_cut_is_at_least_what_was_asked():
    p = np.random.default_rng(2).beta(0.3, 1, 500)
    for rate in (0.1, 0.3, 0.5):
        rows = discoveries(p, rate, 0.8)
        assert rows == 0 or expected_precision(p, 0.8)[rows] >= 1 - rate - 1e-9


def test_a_band_holds_at_all_controls_at_once_as_often_as_it_says():
    random, held = np.random.default_rng(3), []
    for _ in range(400):
        tails = np.sort(random.random(60))  # true tails at the controls, the highest control first
        seen = np.arange(60) / 60  # of controls above each; just below a control its own tail is reached
        held.append((tails <= upper_tail(seen, 60.0, 0.9) + 1e-12).all())
    assert np.mean(held) == pytest.approx(0.9, abs=0.05)


def test_false_discoveries_and_promises_hold_on_average():
    """Half of what is promised at 0.5 is right, and the sure promise breaks at most as often as it says."""
    random, shares, broken = np.random.default_rng(4), [], []
    for _ in range(150):
        rows = np.concatenate([random.normal(size=400), random.normal(2.5, 1, 100)])
        wrong = np.arange(500) >= 400
        null = plain(random.normal(size=100))
        p = p_values(rows, null)
        found = discoveries(p, 0.2, null_share(p))
        if found:
            order = np.argsort(-rows)[:found]
            shares.append(1 - wrong[order].mean())
            broken.append(wrong[order].mean() < sure_precision(rows, null)[found])
    assert np.mean(shares) <= 0.22
    assert np.mean(broken) <= 0.12


def test_probabilities_are_the_grenander_density_ratio():
    p = np.array([0.1, 0.1, 0.1, 0.2, 0.5, 1.0])
    found = wrong_probability(p, 0.5)
    # Slopes of the least concave majorant of (0, 0), (.1, 3/6), (.2, 4/6), (.5, 5/6), (1, 1).
    slopes = np.array([5, 5, 5, 10 / 6, 5 / 9, 1 / 3])
    np.testing.assert_allclose(found, np.clip(1 - 0.5 / slopes, 0, 1))


def test_probabilities_fall_with_the_score_and_match_the_truth():
    random = np.random.default_rng(5)
    rows, wrong = random.normal(size=6000), np.arange(6000) < 1500
    rows[wrong] += 3
    p = p_values(rows, plain(random.normal(size=3000)))
    found = wrong_probability(p, null_share(p))
    assert (np.diff(found[np.argsort(rows)]) >= 0).all()
    sure = found > 0.5
    assert wrong[sure].mean() == pytest.approx(found[sure].mean(), abs=0.05)


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_clean_data_is_flagged_at_most_as_often_as_the_rate_says(rate):
    """Where all rows are good, every discovery is false: one is made with a probability of at most the rate."""
    random, flagged = np.random.default_rng(6), 0
    for _ in range(200):
        p = p_values(random.normal(size=500), plain(random.normal(size=100)))
        flagged += discoveries(p, rate, null_share(p)) > 0
    assert flagged / 200 <= rate
