import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image, Value

from undertow.data.columns import detect_columns
from undertow.errors import DataError

LONG = [f"a rather long sentence, the {i}th about a slow boat in the rain" for i in range(12)]
SHORT = [f"word{i}" for i in range(12)]
FEW = [i % 3 for i in range(12)]
COUNT = list(range(12))


def detected(columns, **given):
    found = detect_columns(Dataset.from_dict(columns), **given)
    return found.text, found.text_pair, found.label


def error_of(columns, **given) -> str:
    with pytest.raises(DataError) as caught:
        detect_columns(columns if isinstance(columns, Dataset) else Dataset.from_dict(columns), **given)
    message = str(caught.value)
    assert "\n" not in message
    assert "The columns are" in message
    return message


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"sentence": LONG, "label": FEW, "idx": COUNT}, ("sentence", None, "label")),
        ({"Text": LONG, "LABEL": FEW}, ("Text", None, "LABEL")),
        (
            {"sentence1": LONG, "sentence2": LONG, "label": FEW, "idx": COUNT},
            ("sentence1", "sentence2", "label"),
        ),
        ({"premise": LONG, "hypothesis": LONG, "label": FEW}, ("premise", "hypothesis", "label")),
        (
            {"question1": LONG, "question2": LONG, "label": FEW, "idx": COUNT},
            ("question1", "question2", "label"),
        ),
        ({"question": LONG, "sentence": LONG, "label": FEW}, ("question", "sentence", "label")),
        ({"query": LONG, "document": LONG, "label": FEW}, ("query", "document", "label")),
        ({"text": LONG, "label": FEW, "label_text": ["x"] * 12}, ("text", None, "label")),
        ({"text": LONG, "review": LONG, "label": FEW}, ("text", None, "label")),
        ({"utterance": SHORT, "category": SHORT}, ("utterance", None, "category")),
        # By content: the only free text, and the only column whose values repeat.
        ({"id": SHORT, "words": LONG, "mood": ["a", "b", "c"] * 4}, ("words", None, "mood")),
        ({"words": SHORT, "number": COUNT, "mood": FEW}, ("words", None, "mood")),
        ({"words": SHORT, "split": [0, 1] * 6, "same": [1] * 12, "mood": FEW}, ("words", None, "mood")),
    ],
)
def test_detection(columns, expected):
    assert detected(columns) == expected


def test_class_label_comes_first():
    features = Features({"text": Value("string"), "target": Value("int64"), "mood": ClassLabel(names=["x", "y", "z"])})
    table = Dataset.from_dict({"text": LONG, "target": FEW, "mood": FEW}, features=features)
    found = detect_columns(table)
    assert found.label == "mood"
    assert found.notes == ("label 'mood': a ClassLabel feature", "text 'text': by name")


def test_class_label_beside_a_plain_label_is_unclear():
    features = Features({"text": Value("string"), "label": Value("int64"), "mood": ClassLabel(names=["x", "y", "z"])})
    table = Dataset.from_dict({"text": LONG, "label": FEW, "mood": FEW}, features=features)
    assert "could be any of 'mood', 'label'" in error_of(table)
    assert detect_columns(table, label="mood").label == "mood"


def test_given_columns():
    columns = {"text": LONG, "title": SHORT, "label": FEW, "other": FEW}
    assert detected(columns, text="title", label="other") == ("title", None, "other")
    assert detected(columns, text_pair="title") == ("text", "title", "label")
    assert detected({"a": LONG, "b": LONG, "label": FEW}, text="a", text_pair="b") == ("a", "b", "label")
    assert detected({"a": LONG, "b": LONG, "label": FEW}, text_pair="b") == ("a", "b", "label")


def test_given_second_text_finds_its_partner():
    columns = {"title": LONG, "claim": LONG, "evidence": LONG, "label": FEW}
    assert detected(columns, text_pair="evidence") == ("claim", "evidence", "label")


def test_pair_can_be_switched_off():
    columns = {"sentence1": LONG, "sentence2": LONG, "label": FEW}
    assert detected(columns, text_pair="none") == ("sentence1", None, "label")
    assert detected(columns, text="sentence2", text_pair="none") == ("sentence2", None, "label")
    assert detected({"text": LONG, "none": LONG, "label": FEW}, text_pair="none") == ("text", "none", "label")


def test_given_text_alone_is_read_alone():
    found = detect_columns(Dataset.from_dict({"sentence1": LONG, "sentence2": LONG, "label": FEW}), text="sentence1")
    assert found.text_pair is None
    assert any("second text: none" in note for note in found.notes)


@pytest.mark.parametrize("given", [{"text": "body"}, {"text_pair": "body"}, {"label": "body"}])
def test_missing_column(given):
    message = error_of({"text": LONG, "label": FEW}, **given)
    assert "no column 'body'" in message
    assert "'text' (string), 'label' (int64)" in message
    for option in ("--text-column", "--text-pair-column", "--label-column"):
        assert option in message


def test_one_column_for_two_roles():
    assert "more than one of text" in error_of({"text": LONG, "label": FEW}, text="text", label="text")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"review": LONG, "comment": LONG, "label": FEW}, "text column could be any of 'review', 'comment'"),
        ({"one": LONG, "two": LONG, "label": FEW}, "text column could be any of 'one', 'two'"),
        ({"one": SHORT, "two": SHORT, "label": FEW}, "text column could be any of 'one', 'two'"),
        ({"question": LONG, "context": LONG, "answer": LONG, "label": FEW}, "text column could be any of"),
        ({"premise": LONG, "hypothesis": LONG, "review": LONG, "label": FEW}, "text column could be any of"),
        ({"number": COUNT, "label": FEW}, "text column cannot be told"),
        ({"text": LONG, "category": FEW, "sentiment": FEW}, "could be any of 'category', 'sentiment'"),
        ({"text": LONG, "one": FEW, "two": FEW}, "label column could be any of 'one', 'two'"),
        ({"text": LONG, "number": COUNT}, "label column cannot be told"),
    ],
)
def test_unclear_columns(columns, words):
    message = error_of(columns)
    assert words in message
    assert ("--label-column" if "label column" in words or "category" in words else "--text-column") in message


@pytest.mark.parametrize("given", [{}, {"text": "text"}])
def test_text_that_is_not_text(given):
    message = error_of({"text": COUNT, "title": SHORT, "label": FEW}, **given)
    assert "'text' holds int64, not text (row 0: 0, row 1: 1, row 2: 2)" in message


def test_text_that_is_a_list_or_missing():
    assert "'sentence' holds list, not text" in error_of({"sentence": [["a"]] * 12, "label": FEW})
    assert "'text' holds null, not text" in error_of({"text": [None] * 12, "label": FEW})


def test_media_is_not_decoded_for_a_message():
    features = Features({"text": Image(), "label": Value("int64")})
    stored = pa.array([{"bytes": b"no image", "path": None}], features.arrow_schema.field("text").type)
    table = Dataset(pa.table({"text": stored, "label": [1]}), info=DatasetInfo(features=features))
    assert "holds image, not text" in error_of(table)


def test_many_columns_are_cut_short():
    columns = {"text": LONG} | {f"feature{i}": COUNT for i in range(30)}
    assert "and 11 more" in error_of(columns)
