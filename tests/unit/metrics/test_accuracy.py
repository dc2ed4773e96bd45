"""Accuracy and its intervals against values worked out by hand."""

import math

import numpy as np
import pytest

from undertow.metrics.accuracy import accuracy, accuracy_difference

Z = 1.959963984540054


def correct(right: int, wrong: int) -> np.ndarray:
    return np.array([True] * right + [False] * wrong)


@pytest.mark.parametrize(
    ("right", "wrong", "low", "high"),
    # Wilson's interval for the four cases in table I of Newcombe 1998.
    [(81, 182, 0.2553, 0.3662), (15, 133, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 28, 0.0061, 0.1718)],
)
def test_published_intervals(right: int, wrong: int, low: float, high: float):
    found = accuracy(correct(right, wrong))
    assert found.value == right / (right + wrong)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize(("right", "wrong"), [(0, 1), (1, 0), (3, 4), (450, 50), (1000, 0)])
def test_formula_of_wilson(right: int, wrong: int):
    n, p = right + wrong, right / (right + wrong)
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    found = accuracy(correct(right, wrong))
    assert found.low == pytest.approx(centre - half, abs=1e-9)
    assert found.high == pytest.approx(centre + half, abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_paired_difference_by_hand():
    # Of 100: 70 right in both, 12 gained, 5 lost, 13 wrong in both.
    after = np.array([True] * 70 + [True] * 12 + [False] * 5 + [False] * 13)
    before = np.array([True] * 70 + [False] * 12 + [True] * 5 + [False] * 13)
    found = accuracy_difference(after, before)
    assert found.value == pytest.approx(0.07)
    assert found.value == pytest.approx(accuracy(after).value - accuracy(before).value)
    # sqrt(12 + 5 - 49/100) / 100 = 0.0406325
    assert found.high - found.value == pytest.approx(1.96 * 0.0406325, abs=1e-6)
    assert found.value - found.low == pytest.approx(1.96 * 0.0406325, abs=1e-6)


def test_paired_difference_is_the_spread_of_the_differences():
    rng = np.random.default_rng(0)
    after, before = rng.random(400) < 0.9, rng.random(400) < 0.8
    differences = after.astype(float) - before.astype(float)
    found = accuracy_difference(after, before)
    assert found.value == pytest.approx(differences.mean())
    assert found.high - found.value == pytest.approx(1.96 * differences.std() / 20)


def test_equal_models_do_not_differ():
    same = correct(7, 3)
    found = accuracy_difference(same, same)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_everything_gained():
    found = accuracy_difference(correct(9, 0), correct(0, 9))
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_exchanging_the_models_turns_the_sign():
    after, before = correct(60, 40), np.roll(correct(50, 50), 20)
    one, other = accuracy_difference(after, before), accuracy_difference(before, after)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
