"""A study from its file to its tables, cell by cell, resumable, in one process or several."""

import statistics
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from undertow.errors import RunFolderError, UndertowError
from undertow.pipeline.whole import whole
from undertow.progress import Reporter, Silent
from undertow.report.text import duration
from undertow.study.cells import Cell, cells
from undertow.study.config import Study
from undertow.study.disk import is_full_disk
from undertow.study.marks import TABLES, facts, failure, is_done, is_measured, note_failure
from undertow.study.reading import read_study

STUDY = "study.json"


@dataclass(frozen=True)
class Progress:
    """Where a study stands.

    Attributes:
        done: cells that are finished.
        failed: cells that failed, with what went wrong.
        running: cells that another process holds.
        pending: the others.
        seconds: time that the pending cells will take by what finished ones took; None where nothing says.
    """

    done: tuple[Cell, ...]
    failed: dict[Cell, str]
    running: tuple[Cell, ...]
    pending: tuple[Cell, ...]
    seconds: float | None


def experiment(
    study: Study | str | Path,
    out: str | Path,
    *,
    retry: bool = False,
    reporter: Reporter | None = None,
) -> Progress:
    """Run every cell of a study that is not done, and gather the results.

    A cell that another process holds is left to it; one that failed before is passed over unless ``retry``. What is
    there is verified by what it depends on: a changed cut trains again, and nothing before it.

    Args:
        study: the study, or its YAML file.
        out: folder of the study.
        retry: try failed cells again.
        reporter: shows progress.

    Raises:
        ConfigError: for a study that cannot be read, with every fault.
        RunFolderError: when the folder is of something else, or the disk is full.
    """
    asked = study if isinstance(study, Study) else read_study(Path(study))
    folder, show = Path(out), reporter or Silent()
    found(folder, asked)
    grid = cells(asked)
    for number, cell in enumerate(grid, start=1):
        if is_done(cell, folder) or (failure(cell, folder) is not None and not retry):
            continue
        try:
            # A look at the status holds a lock for a moment, which is no reason to pass a cell over.
            with lock_of(cell, folder).acquire(timeout=1):
                if is_done(cell, folder):
                    continue
                show.say(f"Cell {number} of {len(grid)}: {cell.label}{_time_left(grid, folder)}")
                attempt(cell, folder, show)
        except Timeout:
            show.say(f"Cell {number} of {len(grid)}: {cell.label}: another process is at it.")
    gather(asked, folder)
    return progress(asked, folder)


def _time_left(grid: Sequence[Cell], folder: Path) -> str:
    """What is said of it before a cell; nothing as long as no cell is done."""
    done = [c for c in grid if is_done(c, folder)]
    left = [c for c in grid if c not in done and failure(c, folder) is None]
    seconds = _seconds(done, left, folder)
    return "" if seconds is None else f"; about {duration(seconds)} left"


def attempt(cell: Cell, folder: Path, show: Reporter) -> None:
    """Run a cell; what goes wrong is noted and the others go on, but for a full disk.

    Raises:
        RunFolderError: when the disk is full.
    """
    from undertow.study.running import run_cell  # which loads the model libraries

    try:
        run_cell(cell, folder, show)
    except Exception as error:  # a cell must not take the others with it; the note says what to mend
        if is_full_disk(error):  # the others would fail likewise, and there is no room for a note
            raise RunFolderError(
                f"The disk that {folder} is on is full. Nothing that was finished is lost: make room, or move the "
                "folder, and the same command goes on."
            ) from error
        note_failure(cell, folder, error, "" if isinstance(error, UndertowError) else traceback.format_exc())
        show.say(f"{cell.label} failed: {error}")


def found(folder: Path, study: Study) -> None:
    """Make the folder of a study, or check that it is one.

    Raises:
        RunFolderError: when it holds something else, or cannot be written.
    """
    file = folder / STUDY
    try:
        if folder.is_dir() and any(folder.iterdir()) and not file.is_file():
            raise RunFolderError(
                f"{folder} holds files and no {STUDY}, so it is no folder of a study and nothing in it is touched. "
                "Give --out a new or empty folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with whole(file) as temporary:
            temporary.write_text(study.model_dump_json(indent=1))
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written: {error.strerror or error}. Give --out a folder in a place that you may "
            "write to and that has room."
        ) from error


def kept_study(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        RunFolderError: when it is none.
    """
    file = folder / STUDY
    try:
        return Study.model_validate_json(file.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{folder} is no folder of a study: {STUDY} in it is missing or cannot be read. Give the folder that "
            "undertow experiment wrote to (its --out)."
        ) from error


def lock_of(cell: Cell, folder: Path) -> FileLock:
    """What a process holds while it works on a cell; it is let go when the process ends, however it ends."""
    place = cell.folder(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(place.with_suffix(place.suffix + ".lock"))


def gather(study: Study, folder: Path) -> dict[str, pd.DataFrame]:
    """Put the tables of all measured cells together, and write them to the folder of the study."""
    tables = {}
    done = [c.folder(folder) for c in cells(study) if is_measured(c, folder)]
    for name in TABLES:
        parts = [pd.read_parquet(cell / f"{name}.parquet") for cell in done]
        parts = [p for p in parts if len(p)]
        if parts:
            tables[name] = pd.concat(parts, ignore_index=True)
            with whole(folder / f"{name}.parquet") as temporary:
                tables[name].to_parquet(temporary, index=False)
    return tables


def progress(study: Study, folder: Path) -> Progress:
    """Where a study stands."""
    grid = cells(study)
    done = tuple(c for c in grid if is_done(c, folder))
    failed = {c: told for c in grid if c not in done and (told := failure(c, folder)) is not None}
    open_cells = [c for c in grid if c not in done and c not in failed]
    running = tuple(c for c in open_cells if is_held(c, folder))
    pending = tuple(c for c in open_cells if c not in running)
    return Progress(done, failed, running, pending, _seconds(done, (*running, *pending), folder))


def is_held(cell: Cell, folder: Path) -> bool:
    """Whether a process is at a cell."""
    place = cell.folder(folder)
    if not place.with_suffix(place.suffix + ".lock").is_file():
        return False
    try:
        with lock_of(cell, folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _seconds(done: Sequence[Cell], left: Sequence[Cell], folder: Path) -> float | None:
    """Each cell that is left takes as long as finished ones of its model and task, else of its model, else of all."""
    took = {c: facts(c, folder).get("seconds", 0.0) for c in done}
    if not took:
        return None if left else 0.0
    total = 0.0
    for cell in left:
        alike = [s for c, s in took.items() if (c.model, c.task) == (cell.model, cell.task)]
        alike = alike or [s for c, s in took.items() if c.model == cell.model] or list(took.values())
        total += statistics.fmean(alike)
    return total
