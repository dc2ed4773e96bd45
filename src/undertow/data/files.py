"""Reads one data file into a Dataset, without a cache and with the line of a mistake in the message.

Nothing here goes through the cache of ``datasets``: a file that changed is read anew. CSV cells and JSON
values are taken as they stand: no dates, booleans or "NA" are guessed from strings.
"""

import bz2
import csv
import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from undertow.data.wording import one_line, quoted
from undertow.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json")
COMPRESSIONS = (".gz", ".bz2")
EXAMPLE = '{"text": "...", "label": 0}'

# Only spellings that a number gives back unchanged in value: "007" and 20-digit ids stay strings.
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?(e[+-][0-9]+)?")


def format_of(path: Path) -> str | None:
    """The suffix that names the file's format, below a ``.gz`` or ``.bz2``; None where it is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    text_formats = (*SEPARATORS, *JSON_LINES)
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return suffixes[0] if suffixes[0] in text_formats else None
    return suffixes[-1] if suffixes and suffixes[-1] in (*text_formats, ".parquet") else None


def read_file(path: Path) -> Dataset:
    """The rows of an existing CSV, TSV, JSONL or Parquet file.

    Raises:
        DataError: the file is empty, damaged, not UTF-8, or a line of it cannot be read.
    """
    suffix = format_of(path)
    try:
        if path.stat().st_size == 0:
            raise DataError(f"The file {path} is empty (0 bytes). Give a file with a header and rows.")
        if suffix == ".parquet":
            # ParquetFile, not read_table: the latter adds columns from folder names such as "label=1".
            return Dataset(pq.ParquetFile(path).read())
        with _open_text(path) as stream:
            if suffix in SEPARATORS:
                return Dataset(_separated(stream, path, SEPARATORS[suffix]))
            return Dataset(_json_lines(stream, path))
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file {path} is not UTF-8 text ({one_line(error)}). Only UTF-8 is read; save it anew as UTF-8."
        ) from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, pa.ArrowException) as error:
        raise DataError(
            f"The file {path} cannot be read as {(suffix or '').lstrip('.').upper()}: {one_line(error)}. "
            "Check that it is complete, readable, and in the format that its extension names."
        ) from error


def arrow_column(name: str, values: Sequence[object], where: str, places: Sequence[str]) -> pa.Array:
    """The values as one Arrow column; ``places`` names each value's line or row for the message.

    Raises:
        DataError: the values are of types that do not go together.
    """
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        seen: dict[str, str] = {}
        for value, place in zip(values, places, strict=True):
            if value is not None and not (isinstance(value, float) and math.isnan(value)):
                seen.setdefault(type(value).__name__, place)
        kinds = ", ".join(f"{kind} (first in {place})" for kind, place in seen.items())
        raise DataError(
            f"The column '{name}' of {where} cannot be read: it holds {kinds}; {one_line(error)}. A column "
            "has one type: text is text in every row. Mend these values, or leave the column out."
        ) from error


def _open_text(path: Path) -> TextIOWrapper:
    # utf-8-sig drops the byte order mark that spreadsheets write; newline="" keeps line ends inside cells.
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    opener = openers.get(path.suffix.lower(), open)
    stream: TextIOWrapper = opener(path, "rt", encoding="utf-8-sig", newline="")
    return stream


@contextmanager
def _long_cells() -> Iterator[None]:
    # The csv module refuses cells over 128 KiB, which long documents pass.
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(stream: TextIOWrapper, path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line it starts at. Quotes that do not close or end mid-cell are errors."""
    reader = csv.reader(stream, delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"The file {path} cannot be read: the record at line {line} is malformed "
                f"({one_line(error)}). A cell that starts with a quotation mark must end with one, and holds "
                "others doubled. Mend that line, or save the data as JSONL."
            ) from error
        if record is None:
            return
        if record:  # an empty line has no cells
            yield line, record


def _separated(stream: TextIOWrapper, path: Path, separator: str) -> pa.Table:
    with _long_cells():
        records = _records(stream, path, separator)
        _, header = next(records, (0, []))
        _check_header(header, path, separator)
        rows: list[list[str]] = []
        for line, record in records:
            if len(record) != len(header):
                raise DataError(
                    f"The file {path} cannot be read: the record at line {line} has {len(record)} cells, the "
                    f"header has {len(header)} ({quoted(header)}). Quote cells that hold the separator, or "
                    "mend that line."
                )
            rows.append(record)
    columns = zip(*rows, strict=True) if rows else ((),) * len(header)
    return pa.table({name: _typed(cells) for name, cells in zip(header, columns, strict=True)})


def _check_header(header: list[str], path: Path, separator: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"The header of {path} names {quoted(twice)} more than once. Rename these columns.")
    other = [mark for mark in ";\t,|" if mark != separator and mark in header[0]] if len(header) == 1 else []
    if other:
        raise DataError(
            f"The header of {path} has the one column {header[0]!r}. Cells are separated by commas in .csv "
            f"and by tabs in .tsv, here they seem to be separated by {other[0]!r}. Save the file with the "
            "separator of its extension, or as JSONL."
        )


def _typed(cells: Sequence[str]) -> pa.Array:
    """Integers or decimals where every filled cell is one, empty cells then null; else strings unchanged."""
    filled = [cell for cell in cells if cell]
    if filled and all(INTEGER.fullmatch(cell) for cell in filled):
        return pa.array([int(cell) if cell else None for cell in cells], pa.int64())
    if filled and all(DECIMAL.fullmatch(cell) for cell in filled):
        return pa.array([float(cell) if cell else None for cell in cells], pa.float64())
    return pa.array(cells, pa.string())


def _json_lines(stream: TextIOWrapper, path: Path) -> pa.Table:
    columns: dict[str, list[object]] = {}
    places: list[str] = []
    for number, line in enumerate(stream, start=1):
        if line.strip():
            record = _json_object(line, number, path)
            for name, value in record.items():
                if name not in columns:
                    columns[name] = [None] * len(places)  # the key was missing so far
                columns[name].append(value)
            places.append(f"line {number}")
            for values in columns.values():
                if len(values) < len(places):  # the key is missing in this record
                    values.append(None)
    return pa.table({name: arrow_column(name, values, str(path), places) for name, values in columns.items()})


def _json_object(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError as error:
        array = " The file seems to be one JSON array." if number == 1 and line.lstrip()[0] == "[" else ""
        raise DataError(
            f"The file {path} cannot be read: line {number} is not valid JSON ({one_line(error)}).{array} "
            f"Accepted is JSONL, one object such as {EXAMPLE} per line. Mend that line."
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"The file {path} cannot be read: line {number} holds a JSON {type(record).__name__}, not an "
            f"object. Accepted is JSONL, one object such as {EXAMPLE} per line. Rewrite it so."
        )
    return record
