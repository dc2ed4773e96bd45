"""Writes rows back out in the user's own columns."""

import json
import math
import os
from base64 import b64encode
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
