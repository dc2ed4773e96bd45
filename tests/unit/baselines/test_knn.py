"""Disagreement with the nearest neighbours."""

import tracemalloc

import numpy as np
import pytest

from undertow.baselines.knn import knn_harm
from undertow.errors import ConfigError, DataError


def random_states(n: int, h: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, h)).astype(np.float32), rng.integers(0, 2, n)


@pytest.mark.parametrize("block", [1, 70, 71, 1000, 10**9])
def test_blocks_change_nothing(block: int):
    states, labels = random_states(70)
    np.testing.assert_array_equal(knn_harm(states, labels, block=block), knn_harm(states, labels))


def test_a_sample_is_not_its_own_neighbour():
    states = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert knn_harm(states, np.array([0, 1, 0, 0]), k=1).round(5).tolist() == [1, 1, 0, 0]


def test_lengths_play_no_part():
    states, labels = random_states(50)
    scales = 2.0 ** np.arange(-25, 25)[:, None]
    np.testing.assert_array_equal(knn_harm(states * scales, labels), knn_harm(states, labels))


def test_those_tied_for_the_last_place_share_it():
    # One neighbour is closer; the other three tie for the second place, and one of them differs.
    states = np.array([[1.0, 0, 0], [1, 0.1, 0], [1, 1, 0], [1, 0, 1], [1, 0, -1]])
    found = knn_harm(states, np.array([0, 0, 1, 0, 0]), k=2)[0]
    assert found == pytest.approx(1 / 3 / 2, abs=1e-6)


def test_equal_shares_are_told_apart_by_nearness():
    # Both ends have one neighbour that differs of two; that of the first is the nearer one.
    angles = np.radians([0, 10, 40, 140, 170, 180])
    states = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = knn_harm(states, np.array([0, 1, 0, 1, 0, 0]), k=2)
    assert found[0] == pytest.approx(0.5, abs=1e-6)
    assert found[5] == pytest.approx(0.5, abs=1e-6)
    assert found[0] > found[5]


def test_all_others_where_there_are_fewer_than_k():
    states, labels = random_states(5)
    labels[:] = [0, 0, 0, 1, 1]
    assert knn_harm(states, labels, k=10).round(5).tolist() == [0.5, 0.5, 0.5, 0.75, 0.75]


def test_zero_states_are_equally_far_from_all():
    labels = np.array([0, 0, 1, 1, 1])
    found = knn_harm(np.zeros((5, 3)), labels, k=2)
    assert found == pytest.approx([0.75, 0.75, 0.5, 0.5, 0.5], abs=1e-6)


def test_opposite_states():
    found = knn_harm(np.array([[1.0, 0], [-1.0, 0]]), np.array([0, 1]))
    assert found.tolist() == [1, 1]


def test_memory_is_bounded():
    states, labels = random_states(4000, 4)
    tracemalloc.start()
    knn_harm(states, labels, block=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 8 / 10


def test_too_few_neighbours_or_samples():
    with pytest.raises(ConfigError, match="The number of neighbours is 0"):
        knn_harm(*random_states(5), k=0)
    with pytest.raises(DataError, match="at least two samples, and 1 came"):
        knn_harm(*random_states(1))
