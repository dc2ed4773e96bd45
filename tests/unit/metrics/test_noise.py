"""Noise detection against tables counted by hand and against all orders of the ties."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.metrics.noise import ideal_detection, noise_detection, random_detection


def test_a_table_counted_by_hand():
    harm = np.array([0.9, 0.1, 0.8, 0.3, 0.5])
    noisy = np.array([True, False, False, True, False])
    # Worst first: rows 0 (noisy), 2, 4, 3 (noisy), 1.
    found = noise_detection(harm, noisy)
    assert found.inspected.tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert found.found.tolist() == [0, 0.5, 0.5, 0.5, 1, 1]
    assert found.noisy == 2
    assert [found.ndr(share) for share in (0.0, 0.2, 0.6, 0.8, 1.0)] == [0, 0.5, 0.5, 1, 1]
    assert found.ndr(0.7) == pytest.approx(0.75)  # between two samples, on the line
    # Area by trapezoids: .25 + .5 + .5 + .75 + 1 = 3, over 5 - 2/2.
    assert found.auc == pytest.approx(3 / 4)


def test_worst_possible_order():
    found = noise_detection(np.array([0.0, 1.0, 2.0, 3.0]), np.array([True, False, False, False]))
    assert found.found.tolist() == [0, 0, 0, 0, 1]
    assert found.auc == pytest.approx(0.5 / 3.5)


def test_ties_counted_by_hand():
    # Two tied rows in front, one of them noisy: half a noisy sample is expected in each place.
    found = noise_detection(np.array([1.0, 1.0, 0.0, 0.0]), np.array([False, True, True, False]))
    assert found.found.tolist() == [0, 0.25, 0.5, 0.75, 1]


def brute_force(harm: list[float], noisy: list[bool]) -> np.ndarray:
    """Mean curve over all orders that sort the harm."""
    n, curves = len(harm), []
    for order in permutations(range(n)):
        if all(harm[a] >= harm[b] for a, b in pairwise(order)):
            curves.append([sum(noisy[i] for i in order[:m]) / sum(noisy) for m in range(n + 1)])
    return np.mean(curves, axis=0)


rows = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.booleans()), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=rows.filter(lambda pairs: any(noisy for _, noisy in pairs)))
def test_ties_are_the_mean_over_all_orders(rows: list[tuple[float, bool]]):
    harm, noisy = (list(column) for column in zip(*rows, strict=True))
    expected = brute_force(harm, noisy)
    found = noise_detection(np.array(harm), np.array(noisy))
    np.testing.assert_allclose(found.found, expected, atol=1e-12)
    area = sum((expected[m] + expected[m + 1]) / 2 for m in range(len(harm)))
    assert found.auc == pytest.approx(area / (len(harm) - sum(noisy) / 2))


@pytest.mark.parametrize(("n", "noisy"), [(10, 2), (7, 7), (5, 1), (4500, 900)])
def test_limits(n: int, noisy: int):
    truth = np.arange(n) < noisy
    ideal, random = ideal_detection(n, noisy), random_detection(n, noisy)
    assert ideal.auc == pytest.approx(1)
    assert random.auc == pytest.approx(0.5 * n / (n - noisy / 2))
    assert random.ndr(0.3) == pytest.approx(0.3)
    assert ideal.ndr(noisy / n) == pytest.approx(1)
    np.testing.assert_allclose(noise_detection(truth.astype(np.float64), truth).found, ideal.found)
    np.testing.assert_allclose(noise_detection(np.zeros(n), truth).found, random.found)
    assert ideal.noisy == random.noisy == noisy


def test_random_scores_come_near_the_random_curve():
    rng = np.random.default_rng(0)
    truth = np.arange(2000) < 400
    aucs = [noise_detection(rng.random(2000), truth).auc for _ in range(20)]
    assert np.mean(aucs) == pytest.approx(random_detection(2000, 400).auc, abs=0.01)


def test_only_the_order_counts():
    rng = np.random.default_rng(1)
    harm, truth = rng.integers(-5, 5, 50).astype(np.float64), rng.random(50) < 0.2
    np.testing.assert_array_equal(noise_detection(np.exp(harm), truth).found, noise_detection(harm, truth).found)


def test_float32_harm():
    harm = np.array([0.3, 0.1, 0.2], dtype=np.float32)
    assert noise_detection(harm, np.array([True, False, False])).auc == pytest.approx(1)


def test_no_noise_has_no_rate():
    with pytest.raises(ValueError, match="no sample is noisy"):
        noise_detection(np.zeros(3), np.zeros(3, dtype=bool))
