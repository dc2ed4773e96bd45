import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from undertow.data.load import has_class_positions, load_samples
from undertow.errors import DataError

from .builders import make_samples

TEXTS = ["warm soup", "cold tea", "stale bread"]


def named(labels, names=("bad", "good")):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": TEXTS, "label": labels}, features=features)


def error_of(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_samples(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_from_a_file(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [
        {"idx": i, "sentence": text, "label": name} for i, (text, name) in enumerate(zip(TEXTS, "bab", strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    samples = load_samples(path)
    assert samples.texts == TEXTS
    assert samples.text_pairs is None
    assert samples.classes == ("a", "b")
    assert samples.labels.tolist() == [1, 0, 1]
    assert samples.label_names == ["b", "a", "b"]
    assert samples.rows.tolist() == [0, 1, 2]
    assert samples.source == "reviews.jsonl"
    assert samples.columns.notes == ("label 'label': by name", "text 'sentence': by name")
    assert samples.table.column_names == ["idx", "sentence", "label"]


def test_second_text():
    frame = pd.DataFrame({"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": [0, 1, 2]})
    samples = load_samples(frame)
    assert samples.text_pairs == TEXTS[::-1]
    assert load_samples(frame, text_pair="none").text_pairs is None


def test_samples_come_back_unchanged():
    samples = make_samples([0, 1])
    assert load_samples(samples) is samples
    assert load_samples(samples, classes=("c0", "c1")) is samples
    message = error_of(samples, classes=("c1", "c0"), role="validation")
    assert "validation samples have the classes 'c0', 'c1', training has 'c1', 'c0'" in message


def test_validation_takes_the_training_classes():
    train = load_samples(named([0, 1, 1]))
    assert has_class_positions(train)
    other = pd.DataFrame({"text": TEXTS, "label": [1, 0, 1]})
    samples = load_samples(other, classes=train.classes, class_positions=True, role="validation")
    assert samples.label_names == ["good", "bad", "good"]
    assert samples.columns.notes[-1] == "labels are read as positions: 0 is 'bad', 1 is 'good'"
    assert not has_class_positions(load_samples(other))


def test_validation_of_one_class_is_accepted():
    samples = load_samples(pd.DataFrame({"text": TEXTS, "label": ["a"] * 3}), classes=("a", "b"))
    assert np.array_equal(samples.labels, [0, 0, 0])


def test_unknown_label_names_the_source():
    message = error_of(pd.DataFrame({"text": TEXTS, "label": ["a", "x", "x"]}), classes=("a", "b"), role="validation")
    assert "The validation source in-memory DataFrame:" in message
    assert "'x' (2 rows)" in message


@pytest.mark.parametrize("labels", [["a"] * 3, [1] * 3, [True] * 3])
def test_one_class(labels):
    message = error_of(pd.DataFrame({"text": TEXTS, "label": labels}))
    assert "All 3 labels" in message
    assert "two classes" in message
    assert "two classes" in error_of(named([1, 1, 1]))


def test_texts_without_words():
    frame = pd.DataFrame({"text": ["soup", None, "", " \n\t", "tea"], "label": [0, 1, 0, 1, 0]})
    message = error_of(frame)
    assert "'text' has 4 of 5 rows" not in message
    assert "'text' has 3 of 5 rows without text (1 null, 2 empty or blank): rows 1, 2, 3" in message


def test_second_texts_without_words():
    frame = pd.DataFrame({"sentence1": TEXTS, "sentence2": ["a", "b", ""], "label": [0, 1, 0]})
    assert "'sentence2' has 1 of 3 rows" in error_of(frame)


def test_texts_that_are_all_null():
    frame = pd.DataFrame({"text": [None] * 3, "label": [0, 1, 0]})
    assert "3 null" in error_of(frame, text="text")


def test_source_errors_name_the_role():
    assert error_of("gone.csv", role="validation").startswith("The validation source: There is no file")
    assert "no column 'nope'" in error_of(pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]}), label="nope")
