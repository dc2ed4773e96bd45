"""Writes rows back out in the user's own columns."""

import csv
import hashlib
import json
import math
import os
from base64 import b64encode
from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from datasets import Dataset

from undertow.errors import DataError

BATCH_ROWS = 1000


def write_jsonl(table: Dataset, path: Path) -> None:
    """One JSON object per row, with the columns and values as they came; replaces ``path`` in one step.

    JSON has no word for some values. NaN and infinities become null, dates and times ISO 8601 strings,
    durations seconds, decimals strings, and bytes base64 strings.

    Raises:
        DataError: a value that none of this covers.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            # Arrow batches hold what is stored: ClassLabel codes, undecoded media.
            for batch in table.with_format("arrow").iter(BATCH_ROWS):
                for row in batch.to_pylist():
                    line = json.dumps({name: _plain(value, name) for name, value in row.items()}, ensure_ascii=False)
                    stream.write(line + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def row_hashes(table: Dataset, columns: Sequence[str] | None = None) -> list[str]:
    """A hash of the values of each row; equal rows have equal ones, in whatever format they were kept.

    A CSV file does not tell 1 from "1" or nothing from an empty text, so neither does the hash.
    """
    names = columns or table.column_names
    found = []
    for batch in table.with_format("arrow").iter(BATCH_ROWS):
        for row in batch.to_pylist():
            told = [[name, _spelled(_plain(row[name], name))] for name in sorted(names)]
            found.append(hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32])
    return found


def _spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return "" if value is None else str(value)


def plain_rows(table: Dataset, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Rows at some positions in terms of JSON."""
    rows = table.select(positions).with_format("arrow")[:].to_pylist() if len(positions) else []
    return [{name: _plain(value, name) for name, value in row.items()} for row in rows]


def write_rows(table: Dataset, path: Path) -> None:
    """Rows in the format that the file's name ends in (.csv, .tsv, .jsonl, .parquet); replaces ``path`` in one step.

    Raises:
        DataError: another format, or a value that the format cannot hold.
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        write_jsonl(table, path)
        return
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise DataError(
            f"{path.name} ends in no format that can be written. Accepted are .csv, .tsv, .jsonl, .parquet."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if suffix == ".parquet":
            table.to_parquet(str(temporary))
        else:
            _write_separated(table, temporary, "," if suffix == ".csv" else "\t")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_separated(table: Dataset, path: Path, separator: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.with_format("arrow").iter(BATCH_ROWS):
            for row in batch.to_pylist():
                cells = [_plain(value, name) for name, value in row.items()]
                nested = next((c for c in cells if isinstance(c, list | dict)), None)
                if nested is not None:
                    raise DataError("A cell of a CSV file holds no list or record. Write .jsonl or .parquet instead.")
                writer.writerow(["" if c is None else c for c in cells])


def _plain(value: Any, column: str) -> Any:
    """The value in terms of JSON."""
    plain: Any
    match value:
        case None | str() | bool() | int():
            plain = value
        case float():
            plain = value if math.isfinite(value) else None
        case list() | tuple():
            plain = [_plain(item, column) for item in value]
        case dict():
            plain = {str(key): _plain(item, column) for key, item in value.items()}
        case date() | time():  # a datetime is a date
            plain = value.isoformat()
        case timedelta():
            plain = value.total_seconds()
        case Decimal():
            plain = str(value)
        case bytes():
            plain = b64encode(value).decode("ascii")
        case _:
            raise _not_json(value, column)
    return plain


def _not_json(value: object, column: str) -> DataError:
    return DataError(
        f"The column '{column}' holds a {type(value).__name__}, which JSON cannot hold. Accepted are texts, "
        "numbers, booleans, dates, bytes, and lists and records of these. Leave the column out, or convert "
        "it."
    )
