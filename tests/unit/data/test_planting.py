import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.data.planting import plant_noise
from undertow.errors import ConfigError, DataError

from .builders import make_samples


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_flips(labels, share, seed):
    samples = make_samples(labels)
    planted = plant_noise(samples, share, seed=seed)
    changed = planted.samples.labels != samples.labels
    assert changed.sum() == max(1, round(share * len(labels)))
    assert np.array_equal(changed, planted.planted)
    assert np.array_equal(planted.original_labels, labels)
    assert set(planted.samples.labels.tolist()) <= set(labels)
    assert samples.labels.tolist() == labels
    again = plant_noise(samples, share, seed=seed)
    assert np.array_equal(again.samples.labels, planted.samples.labels)


def test_other_classes_are_drawn_alike():
    planted = plant_noise(make_samples([0] * 900 + [1, 2, 3]), 0.99, seed=3)
    drawn = planted.samples.labels[:900][planted.planted[:900]]
    assert np.bincount(drawn, minlength=4)[0] == 0
    assert np.bincount(drawn)[1:].min() > 250


def test_rows_are_drawn_from_everywhere_and_by_seed():
    samples = make_samples([0, 1] * 100)
    first, second = (plant_noise(samples, 0.2, seed=seed).planted for seed in (0, 1))
    assert first.sum() == second.sum() == 40
    assert not np.array_equal(first, second)
    assert first[:100].any()
    assert first[100:].any()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_share_out_of_range(share):
    with pytest.raises(ConfigError, match="share of labels to flip"):
        plant_noise(make_samples([0, 1]), share, seed=0)


def test_one_class():
    with pytest.raises(DataError, match="at least two"):
        plant_noise(make_samples([1, 1, 1]), 0.5, seed=0)
