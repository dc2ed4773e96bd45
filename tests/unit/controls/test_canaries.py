import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.controls.anchors import anchor_count
from undertow.controls.canaries import canary_count, draw_canaries
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


def even(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that tell nothing, and a posterior that believes every label."""
    return np.full((len(labels), classes), 1 / classes), np.eye(classes)[labels]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 2, 5]), min_size=20, max_size=60), st.integers(1, 20), st.integers(0, 9))
def test_labels_are_wrong_known_and_drawn_alike_again(labels: list[int], count: int, seed: int):
    own = np.array(labels)
    present = set(labels)
    if len(present) < 2:
        with pytest.raises(ConfigError, match="two classes"):
            draw_canaries(*even(own, 6), own, count, seed=seed)
        return
    found = draw_canaries(*even(own, 6), own, count, seed=seed)
    assert len(found) == count == len(set(found.positions))
    assert (found.labels != own[found.positions]).all()
    assert set(found.labels) <= present
    taught = found.taught(own)
    assert (np.flatnonzero(taught != own) == found.positions).all()
    again = draw_canaries(*even(own, 6), own, count, seed=seed)
    assert (again.positions == found.positions).all()
    assert (again.labels == found.labels).all()


def test_canaries_follow_the_estimated_transitions():
    """Rows of given label 0 are often of class 1: canaries are rows of class 1 that get label 0."""
    own = np.arange(3000) % 3
    p = np.full((3000, 3), 1 / 3)
    posterior = np.eye(3)[own]
    posterior[own == 0] = [0.6, 0.4, 0.0]
    found = draw_canaries(p, posterior, own, 200, seed=0)
    pairs = list(zip(own[found.positions].tolist(), found.labels.tolist(), strict=True))
    assert pairs.count((1, 0)) > 160


def test_hard_texts_are_drawn_more_often():
    own = np.zeros(2000, dtype=int)
    own[1000:] = 1
    p = np.full((2000, 2), 0.5)
    hard = np.arange(2000) % 2 == 0
    p[~hard] = np.where(own[~hard, None] == np.arange(2), 0.98, 0.02)
    found = draw_canaries(p, np.eye(2)[own], own, 200, seed=0)
    assert hard[found.positions].mean() == pytest.approx(np.sqrt(0.5) / (np.sqrt(0.5) + np.sqrt(0.02)), abs=0.1)


def test_rows_that_look_wrong_are_spared():
    own = np.arange(1000) % 2
    posterior = np.eye(2)[own]
    posterior[:500] = posterior[:500, ::-1]
    p = np.full((1000, 2), 0.5)
    assert (draw_canaries(p, posterior, own, 50, seed=0).positions >= 500).all()


@pytest.mark.parametrize(
    ("trusted", "asked", "count"),
    [(300, None, 100), (89, None, 30), (85, None, 0), (300, 0, 0), (300, 0.5, 150), (300, 40, 40)],
)
def test_a_third_of_the_trusted_rows_become_anchors(trusted: int, asked: float | None, count: int):
    assert anchor_count(trusted, asked) == count


@pytest.mark.parametrize("asked", [10, 299, 0.05])
def test_anchors_that_cannot_serve_are_refused(asked: float):
    with pytest.raises(ConfigError, match="--anchors"):
        anchor_count(300, asked)
