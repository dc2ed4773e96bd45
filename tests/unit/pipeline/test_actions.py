"""What is done with rows, in the user's own columns and values."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from undertow.data import load_samples
from undertow.pipeline.actions import advised, cleaned_rows, gathered, likelier_labels, relabelled_rows
from undertow.pipeline.results import ArmResult
from undertow.pipeline.retrain import best_remedy
from undertow.pipeline.settings import settings_from


def samples(labels: list[object], features: Features | None = None):
    table = {"text": [f"text number {i}" for i in range(len(labels))], "label": labels}
    return load_samples(Dataset.from_dict(table, features=features))


def harm(flagged: list[bool], removed: list[bool], wrong: list[float], suggested: list[str], sure: list[float]):
    return pd.DataFrame(
        {
            "flagged": flagged,
            "removed": removed,
            "wrong": wrong,
            "suggested_label": [s if f else None for s, f in zip(suggested, flagged, strict=True)],
            "suggested_probability": [p if f else np.nan for p, f in zip(sure, flagged, strict=True)],
        }
    )


TABLE = harm(
    [True, True, False, False],
    [True, False, False, False],
    [0.9, 0.5, 0.1, 0.0],
    ["1", "0", "1", "0"],
    [0.8, 0.4, 0, 0],
)


def test_rows_are_relabelled_where_the_suggestion_is_likelier_right():
    assert likelier_labels(TABLE).tolist() == [True, False, False, False]
    assert not likelier_labels(TABLE.drop(columns="suggested_probability")).any()


@pytest.mark.parametrize(
    ("labels", "features", "expected"),
    [
        ([0, 1, 0, 1], None, [1, 1, 0, 1]),
        ([False, True, False, True], None, [True, True, False, True]),
        (
            [0, 1, 0, 1],
            Features({"text": Value("string"), "label": ClassLabel(names=["0", "1"])}),
            [1, 1, 0, 1],
        ),
    ],
)
def test_labels_are_replaced_in_the_users_own_values(labels, features, expected):
    rows = samples(labels, features)
    table = TABLE.assign(suggested_label=[rows.classes[1], None, None, None])
    cleaned, removed = cleaned_rows(rows, table, "relabelled")
    assert list(cleaned["label"][:]) == expected
    assert cleaned.features == rows.table.features
    assert len(removed) == 0


def test_a_class_that_no_row_carries_can_be_suggested():
    rows = samples(["a", "b", "a", "b"])
    rows = replace(rows, classes=("a", "b", "c"))
    cleaned, _ = cleaned_rows(rows, TABLE.assign(suggested_label=["c", None, None, None]), "relabelled")
    assert list(cleaned["label"][:]) == ["c", "b", "a", "b"]
    numbers = replace(samples([0, 1, 0, 1]), classes=("0", "1", "2"))
    unknown = TABLE.assign(suggested_label=["2", None, None, None])
    assert not relabelled_rows(numbers, unknown).any()  # its value in a column of numbers is not known
    assert list(cleaned_rows(numbers, unknown, "relabelled")[0]["label"][:]) == [0, 1, 0, 1]


def test_a_planted_label_never_overwrites_the_users_own():
    rows = samples(["a", "b", "a", "b"])
    flipped = rows.with_labels(np.array([1, 1, 0, 1]))
    table = TABLE.assign(suggested_label=["c", None, None, None])
    cleaned, _ = cleaned_rows(replace(flipped, classes=("a", "b", "c")), table, "relabelled")
    assert list(cleaned["label"][:]) == ["a", "b", "a", "b"]


def test_dropping_and_weighing():
    rows = samples([0, 1, 0, 1])
    cleaned, removed = cleaned_rows(rows, TABLE, "dropped")
    assert (len(cleaned), list(removed["text"][:])) == (3, ["text number 0"])
    weighed, nothing = cleaned_rows(rows, TABLE, "down-weighted")
    assert list(weighed["weight"][:]) == pytest.approx([0.1, 0.5, 0.9, 1.0])
    assert len(nothing) == 0
    assert len(cleaned_rows(rows, TABLE, "as given")[0]) == 4


def test_a_weight_of_the_users_is_not_overwritten():
    table = Dataset.from_dict({"text": ["a b", "c d", "e f", "g h"], "label": [0, 1, 0, 1], "weight": [1, 1, 1, 1]})
    cleaned, _ = cleaned_rows(load_samples(table, label="label"), TABLE, "down-weighted")
    assert list(cleaned["weight"][:]) == [1, 1, 1, 1]
    assert list(cleaned["undertow_weight"][:]) == pytest.approx([0.1, 0.5, 0.9, 1.0])


def spread(one: float, other: float, rows: int = 400) -> pd.DataFrame:
    """Removal of a share of each of two labels; removed rows have suggestions that are likelier right."""
    labels = np.arange(rows) % 2
    removed = np.concatenate([np.zeros(0, dtype=bool)]) if not rows else np.zeros(rows, dtype=bool)
    for label, share in ((0, one), (1, other)):
        mine = np.flatnonzero(labels == label)
        removed[mine[: round(share * len(mine))]] = True
    found = harm(removed.tolist(), removed.tolist(), [0.9] * rows, ["x"] * rows, [0.9] * rows)
    return found.assign(label=np.where(labels == 0, "a", "b"))


@pytest.mark.parametrize(("shares", "gathers"), [((0.2, 0.2), False), ((0.4, 0.05), True), ((0.22, 0.18), False)])
def test_errors_that_gather_in_one_label_are_relabelled(shares, gathers):
    table = spread(*shares)
    assert gathered(table) == gathers
    assert advised(table) == ("relabelled" if gathers else "dropped")


def test_nothing_flagged_advises_nothing():
    assert advised(spread(0.0, 0.0)) == "as given"
    assert advised(spread(0.2, 0.2).assign(removed=False)) == "as given"


def test_remedies_are_named_once():
    assert settings_from({"retrain": "drop,drop,"}).retrain == ("drop",)
    assert settings_from({"retrain": ""}).retrain == ()
    assert settings_from({"retrain": True}).retrain == ("drop", "relabel", "weight")


def arm(name: str, gain: float, error: float) -> ArmResult:
    ends = {"difference_low": gain - 1.96 * error, "difference_high": gain + 1.96 * error}
    return ArmResult(name=name, rows=10, accuracy=0.8, low=0.7, high=0.9, difference=gain, **ends)


@pytest.mark.parametrize(
    ("gains", "winner"),
    [
        ((0.05, 0.03, 0.0), "dropped"),
        ((0.01, 0.06, 0.02), "relabelled"),
        # Above 0 by itself, but not as the best of three on the same rows.
        ((0.021, -0.01, 0.0), "as given"),
        ((-0.05, -0.02, 0.0), "as given"),
    ],
)
def test_a_remedy_wins_where_it_surely_helps(gains, winner):
    names = ("dropped", "relabelled", "down-weighted")
    arms = [arm("as given", 0, 0), *(arm(n, g, 0.01) for n, g in zip(names, gains, strict=True)), arm("oracle", 0.2, 0)]
    assert best_remedy(arms) == winner
