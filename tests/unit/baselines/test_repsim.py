"""Similarity of hidden states."""

import numpy as np
import pytest

from undertow.aggregation.in_memory import aggregate
from undertow.baselines.repsim import repsim, repsim_harm, repsim_plain_harm
from undertow.errors import DataError


def random_states(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)


def test_block_of_cosines():
    queries = np.array([[1.0, 0], [0, 0], [-2, 0]])
    samples = np.array([[3.0, 0], [0, 1], [1, 1], [0, 0]])
    half = np.sqrt(0.5)
    expected = [[1, 0, half, 0], [0, 0, 0, 0], [-1, 0, -half, 0]]
    np.testing.assert_allclose(repsim(queries, samples), expected, atol=1e-15)


def test_plain_harm_is_the_mean_aggregation_of_the_block():
    queries, samples = random_states(7, 0), random_states(20, 1)
    expected = -aggregate(repsim(queries, samples)[None], "mean")
    np.testing.assert_allclose(repsim_plain_harm(samples, queries), expected, atol=1e-12)


def test_harm_is_a_reduction_of_the_block():
    queries, samples = random_states(9, 0), random_states(20, 1)
    query_labels, labels = np.arange(9) % 3, np.arange(20) % 3
    block = repsim(queries, samples)
    own = query_labels[:, None] == labels
    expected = (block * ~own).sum(0) / 6 - (block * own).sum(0) / 3
    np.testing.assert_allclose(repsim_harm(samples, labels, queries, query_labels), expected, atol=1e-12)


def test_queries_that_do_not_fit():
    samples, queries, labels = random_states(4, 0), random_states(3, 1), np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="0 of 3 queries are of class 1"):
        repsim_harm(samples, labels, queries, np.array([0, 0, 2]))
    with pytest.raises(DataError, match="3 of 3 queries are of class 0"):
        repsim_harm(samples, labels, queries, np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError, match="there are none"):
        repsim_plain_harm(samples, queries[:0])
