"""Small phrases that error messages are made of."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

ACCEPTED = (
    "Accepted are a CSV, TSV, JSONL (.jsonl or .json, one object per line) or Parquet file (text formats "
    "also as .gz or .bz2), a folder written by save_to_disk ('folder' or 'folder:split'), a hub id with its "
    "split ('rotten_tomatoes:train' or 'glue:sst2:train'), and in Python a datasets.Dataset or a "
    "pandas.DataFrame."
)


def quoted(names: Collection[str], limit: int = 20) -> str:
    """``'a', 'b'``, shortened after ``limit`` names."""
    shown = ", ".join(f"'{name}'" for name in islice(names, limit))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def first_rows(positions: Sequence[int], limit: int = 5) -> str:
    """``rows 0, 4 and 9 more (counted from 0)`` for 0-based positions, ascending."""
    shown = ", ".join(str(position) for position in positions[:limit])
    more = f" and {len(positions) - limit} more" if len(positions) > limit else ""
    return f"{'row' if len(positions) == 1 else 'rows'} {shown}{more} (counted from 0)"


def first_values(values: Iterable[object], limit: int = 3) -> str:
    """``row 0: 17, row 1: 'x'`` for the first values of a column, each cut to 40 characters."""
    return ", ".join(f"row {row}: {repr(value)[:40]}" for row, value in islice(enumerate(values), limit))


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of another library's exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
