import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.data.splits import split_validation, stratified_subset
from undertow.errors import ConfigError, DataError

from .builders import make_samples

label_lists = st.lists(st.integers(0, 4), min_size=4, max_size=40)


@settings(max_examples=25, deadline=None)
@given(label_lists, st.floats(0.2, 0.8), st.sampled_from([0.0, 0.25, 0.4]), st.integers(0, 9))
def test_parts_are_disjoint_complete_and_in_order(labels, query_share, holdout_share, seed):
    samples = make_samples(labels)
    try:
        parts = split_validation(samples, query_share=query_share, holdout_share=holdout_share, seed=seed)
    except DataError:
        return
    pieces = [part for part in (parts.selection, parts.queries, parts.holdout) if part is not None]
    assert len(pieces) == (3 if holdout_share else 2)
    assert sorted(np.concatenate([part.rows for part in pieces])) == list(range(len(labels)))
    for part in pieces:
        assert len(part) > 0
        assert np.all(np.diff(part.rows) > 0)
        assert part.labels.tolist() == [labels[row] for row in part.rows]
    rest = len(labels) - round(holdout_share * len(labels))
    assert len(parts.queries) == round(query_share * rest)


@settings(max_examples=25, deadline=None)
@given(label_lists, st.integers(1, 45), st.integers(0, 9))
def test_subset_keeps_class_shares(labels, size, seed):
    samples = make_samples(labels)
    subset = stratified_subset(samples, size, seed=seed)
    if size >= len(labels):
        assert subset is samples
        return
    assert len(subset) == size
    assert np.all(np.diff(subset.rows) > 0)
    for name in set(labels):
        exact = labels.count(name) * size / len(labels)
        assert abs(int(np.sum(subset.labels == name)) - exact) < 1


def test_seed_decides():
    samples = make_samples([0, 1] * 20)
    draws = [split_validation(samples, seed=seed).queries.rows.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    subsets = [stratified_subset(samples, 10, seed=seed).rows.tolist() for seed in (1, 1, 2)]
    assert subsets[0] == subsets[1] != subsets[2]


def test_rare_classes():
    parts = split_validation(make_samples([0, 0, 0, 0, 1, 2]))
    assert len(parts.selection) == len(parts.queries) == 3
    assert parts.holdout is None
    assert np.sum(parts.queries.labels == 0) == 2


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"query_share": 0.0}, "query share is 0.0"),
        ({"query_share": 1.0}, "query share is 1.0"),
        ({"holdout_share": 1.0}, "held-out share is 1.0"),
        ({"holdout_share": -0.1}, "held-out share is -0.1"),
    ],
)
def test_shares_out_of_range(shares, words):
    with pytest.raises(ConfigError, match=words):
        split_validation(make_samples([0, 1, 0]), **shares)


@pytest.mark.parametrize(
    ("rows", "shares", "words"),
    [
        (1, {}, "of 1 rows leaves the queries part without rows"),
        (4, {"query_share": 0.01}, "queries part without rows"),
        (4, {"query_share": 0.99}, "selection part without rows"),
        (4, {"holdout_share": 0.01}, "held-out part without rows"),
        (3, {"holdout_share": 0.9}, "selection and queries part without rows"),
    ],
)
def test_parts_without_rows(rows, shares, words):
    with pytest.raises(DataError, match=words):
        split_validation(make_samples([0, 1, 0, 1][:rows]), **shares)


def test_subset_of_nothing():
    with pytest.raises(ConfigError, match="rows to keep is 0"):
        stratified_subset(make_samples([0, 1]), 0, seed=0)
