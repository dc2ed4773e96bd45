import pytest
from datasets import ClassLabel, Dataset, Features, Value

from undertow.data.labels import index_labels, read_labels
from undertow.errors import DataError


def class_table(codes, names):
    features = Features({"label": ClassLabel(names=names)})
    return Dataset.from_dict({"label": codes}, features=features)


def indexed(values, classes=None, class_positions=False, names=None):
    table = class_table(values, names) if names else Dataset.from_dict({"label": values})
    found, indices, notes = index_labels(read_labels(table, "label"), classes, class_positions, "validation")
    assert indices.dtype.kind == "i"
    return found, indices.tolist(), notes


def error_of(values, **more) -> str:
    with pytest.raises(DataError) as caught:
        indexed(values, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "classes", "indices"),
    [
        (["spam", "ham", "spam"], ("ham", "spam"), [1, 0, 1]),
        ([10, 9, -1, 10], ("-1", "9", "10"), [2, 1, 0, 2]),
        ([True, False], ("0", "1"), [1, 0]),
        ([2.0, 10.0], ("2", "10"), [0, 1]),
        (["10", "9"], ("10", "9"), [0, 1]),
    ],
)
def test_class_order(values, classes, indices):
    assert indexed(values) == (classes, indices, ())


def test_class_label_keeps_its_order_and_unused_names():
    assert indexed([1, 0], names=["z", "a", "unused"]) == (("z", "a", "unused"), [1, 0], ())


def test_given_classes_fix_the_indices():
    assert indexed(["b", "c"], classes=("c", "b", "a")) == (("c", "b", "a"), [1, 0], ())
    assert indexed([1, 0], names=["b", "c"], classes=("c", "b")) == (("c", "b"), [0, 1], ())


@pytest.mark.parametrize("values", [[1, 0], ["1", "0"], [True, False], [1.0, 0.0]])
def test_integers_as_positions(values):
    classes, indices, notes = indexed(values, classes=("bad", "good"), class_positions=True)
    assert (classes, indices) == (("bad", "good"), [1, 0])
    assert notes == ("labels are read as positions: 0 is 'bad', 1 is 'good'",)


def test_integers_are_not_guessed_into_sorted_names():
    message = error_of([1, 0, 0], classes=("bad", "good"))
    assert "'0' (2 rows), '1' (1 rows)" in message
    assert "ClassLabel" in message


def test_integers_are_not_positions_among_integer_names():
    assert "'0' (1 rows)" in error_of([0, 1], classes=("1", "2"), class_positions=True)
    assert "'2' (1 rows)" in error_of([0, 2], classes=("bad", "good"), class_positions=True)


def test_names_as_codes_of_integer_classes():
    classes, indices, notes = indexed([1, 0], names=["bad", "good"], classes=("0", "1"))
    assert (classes, indices) == (("0", "1"), [1, 0])
    assert notes == ("labels are read as their codes: 'bad' is 0, 'good' is 1",)


def test_unknown_labels():
    message = error_of(["a", "d", "d", "e"], classes=("a", "b"))
    assert "validation labels 'd' (2 rows), 'e' (1 rows) are not among the training classes 'a', 'b'" in message
    assert "'z' (1 rows)" in error_of([0, 1], names=["a", "z"], classes=("a", "b"))


@pytest.mark.parametrize(
    "values",
    [["a", None, " ", "b"], [1, None, None, 0], [0.0, None, float("nan"), 1.0], ["a", None, "", None]],
)
def test_missing_labels(values):
    message = error_of(values)
    count = 3 if values[-1] is None else 2
    assert f"no label in {count} of 4 rows: rows 1, 2" in message


def test_hidden_labels():
    message = error_of([0, -1, -1], names=["a", "b"])
    assert "hidden" in message
    assert "rows 1, 2 (counted from 0)" in message


def test_many_missing_labels_are_cut_short():
    assert "rows 0, 1, 2, 3, 4 and 15 more" in error_of([None] * 20)


def test_fractions():
    message = error_of([1.0, 0.5, 2.5])
    assert "fractions in rows 1, 2" in message
    assert "the first is 0.5" in message


def test_lists_and_other_values():
    table = Dataset.from_dict({"label": [[0, 1], [1]]})
    with pytest.raises(DataError, match=r"one class per row"):
        read_labels(table, "label")
    dates = Dataset.from_dict({"label": [b"x"]}, features=Features({"label": Value("binary")}))
    with pytest.raises(DataError, match="binary"):
        read_labels(dates, "label")
