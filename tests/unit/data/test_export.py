import datetime
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.data.export import _plain, write_jsonl
from undertow.data.sources import read_table
from undertow.errors import DataError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Tuples, because hypothesis varies the order of keys in dictionaries of its own making.
records = st.tuples(
    text,
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(text, max_size=2),
    st.tuples(st.integers(0, 9), text).map(lambda pair: {"b": pair[0], "a": pair[1]}),
).map(lambda values: dict(zip(("zeta", "alpha", "score", "flag", "tags", "nested"), values, strict=True)))


def lines_of(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


@settings(max_examples=20, deadline=None)
@given(st.lists(records, min_size=1, max_size=5))
def test_json_lines_come_back_as_they_went_in(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("round")
    source = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "in.jsonl").write_text(source, encoding="utf-8", newline="")
    write_jsonl(read_table(folder / "in.jsonl")[0], folder / "out.jsonl")
    assert (folder / "out.jsonl").read_bytes() == source.encode()


def test_class_codes_unicode_and_column_order(tmp_path):
    features = Features({"z": Value("string"), "label": ClassLabel(names=["no", "yes"]), "a": Value("int64")})
    table = Dataset.from_dict({"z": ["größe 茶", "b"], "label": [1, 0], "a": [None, 2]}, features=features)
    write_jsonl(table, tmp_path / "a.jsonl")
    assert lines_of(tmp_path / "a.jsonl") == [
        '{"z": "größe 茶", "label": 1, "a": null}',
        '{"z": "b", "label": 0, "a": 2}',
    ]


def test_selected_rows_only(tmp_path):
    table = Dataset.from_dict({"n": list(range(2500))}).select([2400, 3, 7])
    write_jsonl(table, tmp_path / "a.jsonl")
    assert lines_of(tmp_path / "a.jsonl") == ['{"n": 2400}', '{"n": 3}', '{"n": 7}']


def test_values_that_json_has_no_word_for(tmp_path):
    table = Dataset(
        pa.table(
            {
                "nan": [float("nan"), float("inf")],
                "list": [[float("nan"), 1.0], None],
                "day": [datetime.date(2020, 1, 2), None],
                "moment": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, 6), None]),
                "nanos": pd.to_datetime(["2020-01-02T03:04:05.000000007", None]),
                "clock": pa.array([datetime.time(3, 4), None]),
                "lasted": pa.array([datetime.timedelta(seconds=90), None]),
                "price": [Decimal("1.50"), None],
                "raw": [b"\x00\xff", None],
            }
        )
    )
    write_jsonl(table, tmp_path / "a.jsonl")
    first, second = (json.loads(line) for line in lines_of(tmp_path / "a.jsonl"))
    assert first == {
        "nan": None,
        "list": [None, 1.0],
        "day": "2020-01-02",
        "moment": "2020-01-02T03:04:05.000006",
        "nanos": "2020-01-02T03:04:05.000000007",
        "clock": "03:04:00",
        "lasted": 90.0,
        "price": "1.50",
        "raw": "AP8=",
    }
    assert set(second.values()) == {None}


def test_replaces_in_one_step(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old", encoding="utf-8")
    write_jsonl(Dataset.from_dict({"n": [1]}), path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
    assert lines_of(path) == ['{"n": 1}']


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("old", encoding="utf-8")

    def fail(*arguments, **options):
        raise DataError("no word for it")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(DataError):
        write_jsonl(Dataset.from_dict({"n": [1]}), path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_value_that_nothing_covers():
    with pytest.raises(DataError, match=r"column 'odd' holds a complex, which JSON cannot hold"):
        _plain([1j], "odd")
