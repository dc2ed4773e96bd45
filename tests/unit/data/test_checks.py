import pytest

from undertow.data.checks import (
    check_enough_rows,
    check_same_inputs,
    count_leaks,
    duplicate_conflicts,
    fingerprint,
)
from undertow.errors import DataError

from .builders import make_samples


def test_leaks():
    train = make_samples([0, 1, 0, 1], ["a", "b", "a", "c"])
    assert count_leaks(train, make_samples([0, 1], ["a", "x"])) == 2
    assert count_leaks(train, make_samples([0, 1], ["A", "x"])) == 0


def test_leaks_of_pairs():
    train = make_samples([0, 1, 0], ["a", "a", "b"], ["x", "y", "x"])
    assert count_leaks(train, make_samples([0], ["a"], ["y"])) == 1
    assert count_leaks(train, make_samples([0], ["y"], ["a"])) == 0


def test_conflicts():
    assert duplicate_conflicts(make_samples([0, 1, 0, 0, 0], ["a", "a", "a", "b", "b"])) == 3
    assert duplicate_conflicts(make_samples([0, 1], ["a", "a"], ["x", "y"])) == 0


def test_enough_rows():
    check_enough_rows(make_samples([0, 1]), 2)
    with pytest.raises(DataError, match=r"has 2 rows, fewer than one batch of 3.*--batch-size"):
        check_enough_rows(make_samples([0, 1]), 3)


def test_same_inputs():
    single, pair = make_samples([0], ["a"]), make_samples([0], ["a"], ["b"])
    check_same_inputs(single, single)
    check_same_inputs(pair, pair)
    with pytest.raises(DataError, match=r"one has a second text and the other has none.*--text-pair-column"):
        check_same_inputs(single, pair)


def test_fingerprint_tells_contents_apart():
    samples = make_samples([0, 1], ["ab", "c"])
    prints = [
        fingerprint(samples),
        fingerprint(make_samples([0, 1], ["a", "bc"])),
        fingerprint(make_samples([1, 0], ["ab", "c"])),
        fingerprint(make_samples([0, 1], ["c", "ab"])),
        fingerprint(make_samples([0, 1], ["ab", "c"], classes=("x", "y"))),
        fingerprint(make_samples([0, 1], ["ab", "c"], ["", ""])),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(value) == 64 for value in prints)


def test_fingerprint_follows_what_is_read_and_nothing_else():
    samples = make_samples([0, 1, 0], ["a", "b", "c"])
    assert fingerprint(samples.select(samples.rows[1:])) == fingerprint(make_samples([1, 0], ["b", "c"]))


def test_fingerprint_is_the_same_in_every_process():
    # Known value: a change of it makes every stored manifest disagree with its data.
    expected = fingerprint(make_samples([0, 1], ["warm soup", "cold tea"]))
    assert expected == "4f5d930f47e57956998e89fe268c1b158c865f3d7abb700d50934dd67a7a8e7f"
