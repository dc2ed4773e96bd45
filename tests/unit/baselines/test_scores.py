"""Scores from predictions and dynamics, by hand."""

import numpy as np
import pytest

from undertow.baselines.cosine import unit_rows
from undertow.baselines.dynamics import aum_harm, forgetting_harm
from undertow.baselines.predictions import entropy_harm, margin_harm
from undertow.errors import DataError


def test_margin_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])
    assert margin_harm(probabilities, np.array([0, 1, 1])) == pytest.approx([-0.5, 0.5, 0.0])


def test_margin_needs_two_classes():
    with pytest.raises(DataError, match="at least two classes"):
        margin_harm(np.ones((3, 1)), np.zeros(3, dtype=np.int64))


def test_entropy_by_hand():
    found = entropy_harm(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    assert found == pytest.approx([0, np.log(2), 0])
    assert not np.signbit(found).any()


def test_area_under_the_margin_by_hand():
    assert aum_harm(np.array([[1.0, -2.0], [3.0, -4.0]], dtype=np.float32)).tolist() == [-2, 3]


@pytest.mark.parametrize(
    ("margins", "harm"),
    [
        ([1, 1, 1, 1], 0),
        ([-1, -1, 1, 1], 0),
        ([1, -1, 1, -1], 2),
        ([-1, 1, -1, 1], 1),
        ([-1, 1, -1, -1], 1),
        ([1, 0, 1, 1], 1),  # a tie of two logits is not right
        ([-1, -1, -1, -1], 4),
        ([-1], 1),
        ([1], 0),
    ],
)
def test_forgetting_by_hand(margins: list[float], harm: float):
    assert forgetting_harm(np.array(margins, dtype=np.float64)[:, None]).tolist() == [harm]


def test_never_learned_is_worse_than_any_count():
    epochs = 7
    alternating = np.where(np.arange(epochs) % 2, -1.0, 1.0)
    found = forgetting_harm(np.stack([alternating, -np.ones(epochs)], axis=1))
    assert found.tolist() == [3, 7]


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_directions_of_any_size(size: float):
    found = unit_rows(size * np.array([[3.0, -4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, -0.8], [0, 0]], rtol=1e-15)
