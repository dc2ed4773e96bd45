import numpy as np
import pytest

from undertow.controls.conformal import Null
from undertow.controls.share import exact_interval, least_share, mixture_share, unseen_share


def normal(random: np.random.Generator, rows: int, share: float, apart: float) -> np.ndarray:
    values = random.normal(size=rows)
    values[: round(share * rows)] += apart
    return values


def null_of(scores: np.ndarray) -> Null:
    return Null(scores, np.ones(len(scores)), float(len(scores)))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_lower_bound_holds_and_rises_with_errors(share):
    random = np.random.default_rng(0)
    found = [least_share(normal(random, 1000, share, 3), null_of(random.normal(size=200))) for _ in range(60)]
    assert np.mean(np.array(found) <= share) >= 0.95
    assert share == 0 or np.mean(found) > 0.05


def test_the_share_of_a_mixture_is_found_and_its_interval_holds():
    random, held, values = np.random.default_rng(1), [], []
    for _ in range(30):
        canaries, null = random.normal(2, 1, 100), null_of(random.normal(size=150))
        value, low, high = mixture_share(normal(random, 2000, 0.3, 2), canaries, null)
        values.append(value)
        held.append(low <= 0.3 <= high)
    assert np.mean(values) == pytest.approx(0.3, abs=0.04)
    assert np.mean(held) >= 0.85


def test_more_controls_leave_less_unseen():
    random = np.random.default_rng(2)
    canaries = random.normal(3, 1, 200)
    few, many = (unseen_share(canaries, 2000, null_of(random.normal(size=m))) for m in (60, 1000))
    assert 0 < many < few < 1


def test_errors_that_look_like_good_rows_stay_unseen():
    random = np.random.default_rng(3)
    null = null_of(random.normal(size=200))
    assert unseen_share(random.normal(size=200), 2000, null) == 1
    assert least_share(random.normal(size=1000), null) == 0


def test_a_random_sample_has_its_exact_interval():
    value, low, high = exact_interval(31, 200)
    assert value == 0.155
    assert (low, high) == pytest.approx((0.1079, 0.2127), abs=5e-4)
