import bz2
import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from undertow.data.sources import read_table
from undertow.errors import DataError

ROWS = {"text": ["warm soup", "cold tea"], "label": [1, 0]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(path, name=None, *, split=None):
        raise ConnectionError(f"no network for {path}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def error_of(source) -> str:
    with pytest.raises(DataError) as caught:
        read_table(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV"])
def test_separated_files(tmp_path, name):
    separator = "\t" if name.endswith("tsv") else ","
    path = write(tmp_path / name, "text,label\nwarm soup,1\ncold tea,0\n".replace(",", separator))
    table, description = read_table(str(path))
    assert table.to_dict() == ROWS
    assert description == name


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".bz2", bz2.open)])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_compressed_files(tmp_path, suffix, opener, name):
    content = "text,label\nwarm soup,1\ncold tea,0\n"
    if name == "a.jsonl":
        content = '{"text": "warm soup", "label": 1}\n{"text": "cold tea", "label": 0}\n'
    with opener(tmp_path / (name + suffix), "wt") as stream:
        stream.write(content)
    assert read_table(tmp_path / (name + suffix))[0].to_dict() == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_lines(tmp_path, name):
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(*ROWS.values(), strict=True)]
    assert read_table(write(tmp_path / name, "\n\n".join(lines)))[0].to_dict() == ROWS


def test_parquet_without_columns_from_folder_names(tmp_path):
    folder = tmp_path / "label2=7"
    folder.mkdir()
    pq.write_table(pa.table(ROWS), folder / "a.parquet")
    assert read_table(folder / "a.parquet")[0].to_dict() == ROWS


def test_parquet_with_categories_and_class_label(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")[0].to_dict() == {"text": ["a", "b"], "label": ["x", "y"]}
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict(ROWS, features=features).to_parquet(tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet")[0].features["label"].names == ["no", "yes"]


def test_saved_folder_and_split(tmp_path, monkeypatch):
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_dict(ROWS)}).save_to_disk(tmp_path / "many")
    assert read_table(tmp_path / "one")[0].to_dict() == ROWS
    table, description = read_table(f"{tmp_path}/many:train")
    assert (table.to_dict(), description) == (ROWS, "many:train")
    monkeypatch.chdir(tmp_path)
    assert read_table("many:train")[0].to_dict() == ROWS


def test_in_memory_dataset_loses_its_format():
    table, description = read_table(Dataset.from_dict(ROWS).with_format("numpy"))
    assert (table["text"][:], description) == (["warm soup", "cold tea"], "in-memory Dataset")


def test_in_memory_frame_without_index_and_metadata():
    frame = pd.DataFrame(ROWS, index=[7, 9])
    table, description = read_table(frame)
    assert (table.to_dict(), description) == (ROWS, "in-memory DataFrame")


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("glue:sst2:train", ("glue", "sst2", "train")),
        ("rotten_tomatoes:train", ("rotten_tomatoes", None, "train")),
        ("owner/set:a-b:train[:10%]", ("owner/set", "a-b", "train[:10%]")),
    ],
)
def test_hub_id(monkeypatch, source, arguments):
    came = []

    def load(path, name=None, *, split=None):
        came.append((path, name, split))
        return Dataset.from_dict(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_table(source)[1] == source
    assert came == [arguments]


def test_existing_path_wins_over_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict(ROWS).save_to_disk("rotten_tomatoes:train")
    assert read_table("rotten_tomatoes:train")[0].to_dict() == ROWS


# --- values stay as they are ----------------------------------------------------------------------------


def test_csv_keeps_strings_and_whole_numbers(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "text,count,zip,score,day,flag,big\n"
        'NA,1,007,0.5,2020-01-02,true,12345678901234567890\n"two\nlines ""x""",,010,,None,,1\n',
    )
    assert read_table(path)[0].to_dict() == {
        "text": ["NA", 'two\nlines "x"'],
        "count": [1, None],
        "zip": ["007", "010"],
        "score": [0.5, None],
        "day": ["2020-01-02", "None"],
        "flag": ["true", ""],
        "big": ["12345678901234567890", "1"],
    }


def test_csv_with_byte_order_mark_and_long_cell(tmp_path):
    path = write(tmp_path / "a.csv", "\ufefftext,label\n" + "x" * 200_000 + ",1\n")
    table, _ = read_table(path)
    assert table.column_names == ["text", "label"]
    assert len(table[0]["text"]) == 200_000


def test_json_dates_stay_strings_and_missing_keys_are_null(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"day": "2020-01-02", "n": 1}\n{"day": "2020-01-03", "extra": "é"}\n')
    assert read_table(path)[0].to_dict() == {
        "day": ["2020-01-02", "2020-01-03"],
        "n": [1, None],
        "extra": [None, "é"],
    }


def test_changed_file_is_read_anew(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nsoup,1\n")
    read_table(path)
    write(path, "text,label\nbread,1\n")
    assert read_table(path)[0]["text"][:] == ["bread"]


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["missing.csv", "./folder", "/no/such/place", "~/no/such.jsonl.gz"])
def test_missing_file(source):
    message = error_of(source)
    assert "There is no file or folder" in message
    assert source in message
    assert "Parquet" in message
    assert "There is no file or folder" in error_of(Path("glue:sst2:train"))


def test_unknown_extension(tmp_path):
    assert "'.xlsx', which is not known" in error_of(write(tmp_path / "a.xlsx", "x"))
    assert "which is not known" in error_of(write(tmp_path / "a.parquet.gz", "x"))
    assert "which is not known" in error_of(write(tmp_path / "noextension", "x"))


def test_path_that_cannot_be_looked_up():
    assert "cannot be looked up" in error_of("x" * 300)


def test_split_of_a_file(tmp_path):
    assert "a file has none" in error_of(f"{write(tmp_path / 'a.csv', 'x')}:train")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_empty_file(tmp_path, name):
    assert "is empty (0 bytes)" in error_of(write(tmp_path / name, ""))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text,label\n"), ("a.jsonl", "\n\n"), ("b.csv", "\n")])
def test_no_rows(tmp_path, name, content):
    assert "has no rows" in error_of(write(tmp_path / name, content))
    assert "has no rows" in error_of(Dataset.from_dict({"text": [], "label": []}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", "not parquet", "cannot be read as PARQUET"),
        ("a.csv.gz", "not gzip", "cannot be read as CSV"),
        ("a.jsonl.bz2", "not bzip2", "cannot be read as JSONL"),
        ("a.csv", "text,label\nsoup,1\ntea,1,2\n", "line 3 has 3 cells, the header has 2 ('text', 'label')"),
        ("a.csv", 'text,label\n"a\nb",1\nc\n', "line 4 has 1 cells"),
        ("a.csv", 'text,label\nsoup,1\n"tea,1\nrain,0\n', "record at line 3 is malformed"),
        ("a.csv", 'text,label\n"tea" time,1\n', "record at line 2 is malformed"),
        ("a.csv", "text,text\nsoup,1\n", "names 'text' more than once"),
        ("a.csv", "text;label\nsoup;1\n", "separated by ';'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not valid JSON"),
        ("a.json", '[{"text": "a"},\n{"text": "b"}]\n', "The file seems to be one JSON array"),
        ("a.json", '[{"text": "a"}]\n', "line 1 holds a JSON list"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', "holds str (first in line 1), int (first in line 2)"),
        ("a.jsonl", '{"text": "a\\ud800"}\n', "The column 'text'"),
    ],
)
def test_malformed_file(tmp_path, name, content, words):
    assert words in error_of(write(tmp_path / name, content))


def test_truncated_gzip(tmp_path):
    whole = gzip.compress(b"text,label\n" + bytes(range(97, 122)) * 50)
    for cut in (15, len(whole) - 12):
        (tmp_path / "a.csv.gz").write_bytes(whole[:cut])
        assert "cannot be read as CSV" in error_of(tmp_path / "a.csv.gz")
    (tmp_path / "a.csv.gz").write_bytes(whole[:10] + b"\x07" * 20)
    assert "cannot be read as CSV" in error_of(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_not_utf8(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    assert "not UTF-8" in error_of(tmp_path / name)


def test_folders_that_do_not_fit(tmp_path, monkeypatch):
    tables = DatasetDict({"train": Dataset.from_dict(ROWS), "test": Dataset.from_dict(ROWS)})
    tables.save_to_disk(tmp_path / "many")
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "one")
    (tmp_path / "plain").mkdir()
    message = error_of(tmp_path / "many")
    assert "no split was named" in message
    assert "'train', 'test'" in message
    assert "no split 'dev'" in error_of(f"{tmp_path}/many:dev")
    assert "single Dataset" in error_of(f"{tmp_path}/one:train")
    assert "not written by save_to_disk" in error_of(str(tmp_path / "plain"))
    assert "not written by save_to_disk" in error_of(f"{tmp_path}/plain:train")
    write(tmp_path / "one" / "state.json", "{")
    assert "cannot be read" in error_of(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert "a local folder of that name exists" in error_of("plain:config:train")


def test_hub_failures():
    message = error_of("glue:sst2:train")
    assert "cannot be loaded: no network for glue" in message
    assert "without network give a local source" in message
    assert "neither an existing file or folder nor a hub id with a split" in error_of("rotten_tomatoes")
    assert "neither an existing file" in error_of("what is this?")
    assert "that is a file format" in error_of("pandas:train")


def test_frames_that_do_not_fit():
    mixed = pd.DataFrame({"label": [0, 1], "text": pd.Series(["a", 3], dtype=object)})
    assert "'text' of the DataFrame cannot be read: it holds str (first in row 0), int (first in row 1)" in (
        error_of(mixed)
    )
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    assert "more than one column named 'text'" in error_of(twice)


def test_other_types():
    with pytest.raises((DataError, TypeError), match=r"splits 'train'|Type-check"):
        read_table(DatasetDict({"train": Dataset.from_dict(ROWS)}))
    with pytest.raises((DataError, TypeError)):
        read_table(3)
