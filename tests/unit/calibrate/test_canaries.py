import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.calibrate.canaries import canary_count, draw_canaries
from undertow.errors import ConfigError


@pytest.mark.parametrize(
    ("rows", "share", "count"), [(4500, 0.04, 180), (600, 0.04, 50), (500, 0.04, 50), (499, 0.04, 0)]
)
def test_at_least_fifty_where_the_rows_can_spare_them(rows: int, share: float, count: int):
    assert canary_count(rows, share) == count


@pytest.mark.parametrize("share", [0, -0.1, 0.2])
def test_shares_out_of_range_are_refused(share: float):
    with pytest.raises(ConfigError, match=r"at most 0\.1"):
        canary_count(1000, share)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 2, 5]), min_size=20, max_size=60), st.integers(1, 20), st.integers(0, 9))
def test_labels_are_wrong_known_and_stratified(labels: list[int], count: int, seed: int):
    own = np.array(labels)
    present, sizes = np.unique(own, return_counts=True)
    if len(present) < 2:
        with pytest.raises(ConfigError, match="two classes"):
            draw_canaries(own, count, seed=seed)
        return
    found = draw_canaries(own, count, seed=seed)
    assert len(found) == count == len(set(found.positions))
    assert (found.labels != own[found.positions]).all()
    assert set(found.labels) <= set(present)
    drawn = [(own[found.positions] == c).sum() for c in present]
    assert np.abs(drawn - sizes * count / len(own)).max() < 1
    taught = found.taught(own)
    assert (np.flatnonzero(taught != own) == found.positions).all()
    again = draw_canaries(own, count, seed=seed)
    assert (again.positions == found.positions).all()
    assert (again.labels == found.labels).all()


def test_wrong_labels_are_uniform_over_the_others():
    own = np.zeros(4000, dtype=int)
    own[3000:] = np.arange(1000) % 3 + 1
    found = draw_canaries(own, 400, seed=0)
    wrong = found.labels[own[found.positions] == 0]
    assert len(wrong) == 300
    assert np.bincount(wrong, minlength=4)[1:].min() > 75
