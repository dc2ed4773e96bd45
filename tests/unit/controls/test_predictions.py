import numpy as np
import pytest

from undertow.controls.predictions import pool_weights, pooled


def opinions(rows: int, strengths: list[float], seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Probabilities by models with independent errors, and the labels; strength 0 tells nothing."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    found = []
    for strength in strengths:
        scores = random.normal(size=(rows, 2))
        scores[np.arange(rows), labels] += strength
        p = np.exp(strength * scores)
        found.append(p / p.sum(axis=1, keepdims=True))
    return found, labels


def test_a_pool_is_better_than_each_and_as_sure_as_it_is_right():
    p, labels = opinions(8000, [1.0, 0.7])
    sure = [q**3 / (q**3).sum(axis=1, keepdims=True) for q in p]
    half = slice(0, 4000), slice(4000, 8000)
    rows, trusted = pooled([q[half[0]] for q in sure], [q[half[1]] for q in sure], labels[half[1]])
    for found, truth in ((rows, labels[half[0]]), (trusted, labels[half[1]])):
        np.testing.assert_allclose(found.sum(axis=1), 1)
        for low in (0.1, 0.3, 0.5, 0.7):
            here = (found[:, 1] >= low) & (found[:, 1] < low + 0.2)
            assert truth[here].mean() == pytest.approx(found[here, 1].mean(), abs=0.06)
    assert (rows.argmax(1) == labels[half[0]]).mean() > (p[0][half[0]].argmax(1) == labels[half[0]]).mean() + 0.01


def test_what_tells_nothing_has_a_small_part():
    p, labels = opinions(3000, [1.0], seed=2)
    p.append(np.random.default_rng(0).dirichlet([1, 1], 3000))
    parts, _ = pool_weights(np.log(np.stack(p)), labels)
    assert parts[0] > 0.7
    assert 0 <= parts[1] < 0.15


def test_a_trusted_row_has_no_part_in_the_pool_that_predicts_it():
    p, labels = opinions(60, [1.0, 1.0], seed=3)
    other = labels.copy()
    other[7] = 1 - other[7]
    first, second = (pooled(p, p, known)[1][7] for known in (labels, other))
    np.testing.assert_array_equal(first, second)
