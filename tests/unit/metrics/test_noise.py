"""Noise detection against tables counted by hand and against all orders of the ties."""

from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from undertow.metrics.noise import (
    auroc,
    average_precision,
    detection_table,
    ideal_detection,
    noise_detection,
    oracle_harm,
    random_detection,
)


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


# Areas, precision, and all of them with intervals.


def shuffled_mean(measure, harm: list[float], noisy: list[bool]) -> float:
    """Mean of a measure over all orders of the ties, each made an order without ties."""
    n, found = len(harm), []
    for order in permutations(range(n)):
        if all(harm[a] >= harm[b] for a, b in pairwise(order)):
            distinct = np.empty(n)
            distinct[list(order)] = np.arange(n, 0, -1)
            found.append(measure(np.array(noisy), distinct))
    return float(np.mean(found))


def test_areas_by_hand():
    harm, noisy = np.array([0.9, 0.1, 0.8, 0.3, 0.5]), np.array([True, False, False, True, False])
    # Order: noisy, clean, clean, noisy, clean. The first beats all three clean ones, the second beats one.
    assert auroc(harm, noisy) == pytest.approx(4 / 6)
    assert average_precision(harm, noisy) == pytest.approx((1 / 1 + 2 / 4) / 2)
    curve = noise_detection(harm, noisy)
    assert [curve.precision(share) for share in (0.2, 0.4, 0.8, 1.0)] == pytest.approx([1, 1 / 2, 2 / 4, 2 / 5])


def test_ties_by_hand():
    harm, noisy = np.array([1.0, 1.0, 0.0, 0.0]), np.array([False, True, True, False])
    assert auroc(harm, noisy) == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    # First noisy one in place 1 or 2, second in place 3 or 4, each with probability 1/2.
    assert average_precision(harm, noisy) == pytest.approx(((1 + 1 / 2) / 2 + (2 / 3 + 2 / 4) / 2) / 2)
    assert noise_detection(harm, noisy).precision(0.25) == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(rows=rows.filter(lambda pairs: 0 < sum(noisy for _, noisy in pairs) < len(pairs) < 6))
def test_areas_are_means_over_all_orders_of_ties(rows: list[tuple[float, bool]]):
    harm, noisy = (list(column) for column in zip(*rows, strict=True))
    given_ = np.array(harm), np.array(noisy)
    assert auroc(*given_) == pytest.approx(roc_auc_score(given_[1], given_[0]))
    assert auroc(*given_) == pytest.approx(shuffled_mean(roc_auc_score, harm, noisy))
    assert average_precision(*given_) == pytest.approx(shuffled_mean(average_precision_score, harm, noisy))


@settings(max_examples=40, deadline=None)
@given(rows=rows.filter(lambda pairs: 0 < sum(noisy for _, noisy in pairs) < len(pairs)), seed=st.integers(0, 99))
def test_no_measure_depends_on_the_order_of_rows(rows: list[tuple[float, bool]], seed: int):
    harm, noisy = (np.array(column) for column in zip(*rows, strict=True))
    order = np.random.default_rng(seed).permutation(len(harm))
    for measure in (auroc, average_precision, lambda h, y: noise_detection(h, y).auc):
        assert measure(harm[order], noisy[order]) == pytest.approx(measure(harm, noisy), abs=1e-12)


def test_oracle_finds_all_noise_first():
    noisy = np.array([False, True, False, True])
    assert noise_detection(oracle_harm(noisy), noisy).auc == 1
    assert auroc(oracle_harm(noisy), noisy) == average_precision(oracle_harm(noisy), noisy) == 1


def example(n: int = 300, noisy: int = 60) -> tuple[np.ndarray, np.ndarray]:
    truth = np.arange(n) < noisy
    return np.random.default_rng(0).normal(size=n) + truth, truth


def test_against_scikit_learn_without_ties():
    harm, noisy = example()
    assert auroc(harm, noisy) == pytest.approx(roc_auc_score(noisy, harm))
    assert average_precision(harm, noisy) == pytest.approx(average_precision_score(noisy, harm))
    cut = np.sort(harm)[-90]
    assert noise_detection(harm, noisy).precision(0.3) == pytest.approx(precision_score(noisy, harm >= cut))
    assert noise_detection(harm, noisy).ndr(0.3) == pytest.approx(recall_score(noisy, harm >= cut))


def test_random_order_has_the_precision_of_chance():
    noisy = np.arange(50) < 10
    assert average_precision(np.zeros(50), noisy) == pytest.approx(
        np.mean([average_precision_score(noisy, np.random.default_rng(s).random(50)) for s in range(1000)]), abs=0.01
    )
    assert auroc(np.zeros(50), noisy) == 0.5


def test_table_of_all_measures():
    harm, noisy = example()
    table = detection_table(harm, noisy, shares=(0.1, 0.3), times=200)
    assert list(table.index) == [
        "NDR@10",
        "NDR@30",
        "precision@10",
        "precision@30",
        "AUC-NDR",
        "AUROC",
        "average precision",
    ]
    curve = noise_detection(harm, noisy)
    expected = [curve.ndr(0.1), curve.ndr(0.3), curve.precision(0.1), curve.precision(0.3), curve.auc]
    assert table["value"].tolist() == pytest.approx([*expected, auroc(harm, noisy), average_precision(harm, noisy)])
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    # Among 60 noisy of 300, NDR@10 and precision@10 are the same count over 60 and over 30.
    assert table.loc["NDR@10", "high"] * 2 == pytest.approx(table.loc["precision@10", "high"])
    pd.testing.assert_frame_equal(table, detection_table(harm, noisy, shares=(0.1, 0.3), times=200))
    assert not table.equals(detection_table(harm, noisy, shares=(0.1, 0.3), times=200, seed=1))


def test_interval_is_that_of_the_known_error():
    """DeLong et al. 1988: the variance of an AUROC from what each noisy and each clean sample adds to it."""
    harm, noisy = example()
    wins = harm[noisy][:, None] > harm[~noisy][None]
    error = np.sqrt(wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 240)
    found = detection_table(harm, noisy, times=2000).loc["AUROC"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_stratified_resamples_keep_the_number_of_noisy_samples():
    harm, noisy = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, False, False])
    kept = detection_table(harm, noisy, shares=(0.5,), times=300)
    assert kept.loc["precision@50"].tolist() == [0.5, 0.5, 0.5]  # always the one noisy sample, and one clean
    free = detection_table(harm, noisy, shares=(0.5,), times=300, stratify=False)
    assert free.loc["precision@50", "high"] > 0.5
    assert free.notna().all(axis=None)  # resamples without a noisy sample are left out


def test_all_noisy():
    harm, noisy = np.array([1.0, 2.0]), np.array([True, True])
    table = detection_table(harm, noisy, shares=(0.5,), times=10)
    assert table.loc["AUROC"].isna().all()
    assert table.drop(index="AUROC").notna().all(axis=None)
    assert average_precision(harm, noisy) == 1
    with pytest.raises(ValueError, match="no sample is clean"):
        auroc(harm, noisy)


@pytest.mark.parametrize("measure", [noise_detection, auroc, average_precision, detection_table])
def test_undefined(measure):
    with pytest.raises(ValueError, match="no sample is noisy"):
        measure(np.zeros(3), np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="the harm of 1 of 3 samples is NaN"):
        measure(np.array([0.0, np.nan, 1.0]), np.array([True, False, False]))


def test_a_share_of_no_sample():
    with pytest.raises(ValueError, match=r"a share of 0\.1 of 4 samples is none of them"):
        noise_detection(np.arange(4.0), np.arange(4) < 2).precision(0.1)
