"""Accuracy and its intervals against values worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import mcnemar as stats_mcnemar

from undertow.metrics.accuracy import accuracy, accuracy_difference, classification_table, mcnemar

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


# Several classes, with intervals, and McNemar's test.


def test_measures_by_hand():
    labels = np.array(["a", "a", "a", "b", "b", "c"])
    predicted = np.array(["a", "a", "b", "b", "c", "c"])
    table = classification_table(predicted, labels, positive="b", times=50)
    assert list(table.index) == ["accuracy", "F1 macro", "F1", "Matthews"]
    # F1: a 2·2/(3+2), b 2·1/(2+2), c 2·1/(1+2). Matthews: (6·4 - (3·2+2·2+1·2)) / √((36-14)(36-12)).
    expected = [4 / 6, (4 / 5 + 1 / 2 + 2 / 3) / 3, 1 / 2, 12 / math.sqrt(22 * 24)]
    assert table["value"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_measures_against_scikit_learn(classes: int):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, classes, 200))
    table = classification_table(predicted, labels, positive=1, times=200)["value"]
    assert table["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert table["F1 macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert table["F1"] == pytest.approx(f1_score(labels == 1, predicted == 1))
    assert table["Matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))


def test_a_class_that_is_only_predicted_counts():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 2])
    found = classification_table(predicted, labels, times=10)["value"]
    assert found["F1 macro"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


def test_intervals_of_measures():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    predicted = np.where(rng.random(400) < 0.8, labels, 1 - labels)
    table = classification_table(predicted, labels, positive=1, times=500)
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    wilson = accuracy(labels == predicted)
    assert table.loc["accuracy"].tolist() == [wilson.value, wilson.low, wilson.high]
    # With balanced classes Matthews' correlation is nearly 2 · accuracy - 1, and its interval twice as wide.
    width = table.loc["Matthews", "high"] - table.loc["Matthews", "low"]
    assert width == pytest.approx(2 * (wilson.high - wilson.low), rel=0.1)
    pd.testing.assert_frame_equal(table, classification_table(predicted, labels, positive=1, times=500))


def test_all_alike_has_no_correlation():
    table = classification_table(np.zeros(5, dtype=int), np.zeros(5, dtype=int), times=10)["value"]
    assert table.to_dict() == {"accuracy": 1, "F1 macro": 1, "Matthews": 0}


def test_mcnemar_by_hand():
    # Of ten samples on which they differ, two are for the first: 2 · (1 + 10 + 45) / 2^10.
    first = np.array([True] * 2 + [False] * 8 + [True] * 5)
    second = np.array([False] * 2 + [True] * 8 + [True] * 5)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (2, 8)
    assert found.p_value == pytest.approx(2 * 56 / 1024)
    assert mcnemar(second, first).p_value == pytest.approx(found.p_value)
    assert mcnemar(first, first).p_value == 1


def test_mcnemar_of_agresti():
    """Agresti 2002, table 10.1: approval of the prime minister, 150 against 86 changed their mind; z² = 17.36."""
    first, second = correct(150, 86), ~correct(150, 86)
    assert mcnemar(first, second).p_value == pytest.approx(stats_mcnemar([[0, 150], [86, 0]], exact=True).pvalue)
    assert mcnemar(first, second).p_value == pytest.approx(3.1e-5, rel=0.3)


def test_refusals():
    with pytest.raises(ValueError, match="no sample"):
        classification_table(np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="7 is none of the classes 0, 1"):
        classification_table(np.array([0, 1]), np.array([0, 1]), positive=7)
