"""What a cell leaves that says how it went; read without loading any model library."""

import json
from pathlib import Path
from typing import Any

from undertow.errors import UndertowError
from undertow.pipeline.whole import whole
from undertow.study.cells import Cell

RUN, FAILED, DONE, TRACEBACK = "run", "failed.json", "done.json", "traceback.txt"
TABLES = ("results", "layers", "agreement", "costs")


def is_done(cell: Cell, out: Path) -> bool:
    """Whether all that the study asks of a cell is there."""
    return is_measured(cell, out) and not facts(cell, out).get("diverged")


def is_measured(cell: Cell, out: Path) -> bool:
    """Whether its tables are there, though trainings of it may have diverged."""
    kept = facts(cell, out)
    return bool(kept.get("measures") == cell.measures_key and kept.get("retrained") == acts_on(cell))


def facts(cell: Cell, out: Path) -> dict[str, Any]:
    """What a finished cell says of itself; empty where it is not finished."""
    try:
        kept: dict[str, Any] = json.loads((cell.folder(out) / DONE).read_text())
    except (OSError, ValueError):
        return {}
    return kept


def note_done(cell: Cell, out: Path, told: dict[str, Any]) -> None:
    """Mark a cell as finished."""
    folder = cell.folder(out)
    facts_of_all = {**told, "measures": cell.measures_key, "retrained": acts_on(cell)}
    with whole(folder / DONE) as temporary:
        temporary.write_text(json.dumps(facts_of_all))
    for name in (FAILED, TRACEBACK):
        (folder / name).unlink(missing_ok=True)


def acts_on(cell: Cell) -> Any:
    """What of the study decides on retrainings, as JSON."""
    asked = cell.study.retrain
    told = asked if isinstance(asked, bool) else asked.model_dump(mode="json")
    return [told, list(cell.study.cuts) if asked else []]


def note_failure(cell: Cell, out: Path, error: Exception, trace: str = "") -> None:
    """Leave a note of what went wrong."""
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    told = str(error) if isinstance(error, UndertowError) else f"{type(error).__name__}: {error}"
    (folder / FAILED).write_text(json.dumps({"error": told, "kind": type(error).__name__}))
    if trace:
        (folder / TRACEBACK).write_text(trace)


def failure(cell: Cell, out: Path) -> str | None:
    """What went wrong with a cell, or None."""
    try:
        return str(json.loads((cell.folder(out) / FAILED).read_text())["error"])
    except (OSError, ValueError, KeyError):
        return None
