import numpy as np
import pytest

from undertow.calibrate.groups import group_share


def rows(share: float, count: int, seed: int) -> np.ndarray:
    """Probabilities by evidence that holds, under an overall share of 20%."""
    random = np.random.default_rng(seed)
    bad = random.random(count) < share
    z = random.normal(size=count) + 2 * bad
    odds = np.exp(2 * z - 2) * 0.2 / 0.8
    return odds / (1 + odds)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.7])
def test_the_share_of_a_group_is_its_own(share: float):
    value, low, high = group_share(rows(share, 2000, 0), 0.2)
    assert value == pytest.approx(share, abs=0.04)
    assert low < value < high
    assert high - low < 0.1


def test_intervals_of_small_groups_are_wide_and_hold():
    found = [group_share(rows(0.3, 30, seed), 0.2) for seed in range(20)]
    assert sum(low <= 0.3 <= high for _, low, high in found) >= 17
    assert np.mean([high - low for _, low, high in found]) > 0.2


def test_without_evidence_of_wrong_labels():
    assert group_share(np.zeros(5), 0.0) == (0.0, 0.0, 0.0)
    assert group_share(np.array([]), 0.2) == (0.0, 0.0, 1.0)
