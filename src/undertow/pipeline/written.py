"""What commands that look at a finished run read from it and leave in it."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from undertow.errors import RunFolderError
from undertow.pipeline.whole import whole

HARM = "harm.parquet"


def read_harm(run: Path, influence: xr.Dataset) -> pd.DataFrame:
    """The harm table of a run, a row a sample in the order of its influence tensor.

    Raises:
        RunFolderError: when it is not there, or is not of the same audit.
    """
    path = run / HARM
    if not path.is_file():
        raise RunFolderError(
            f"{run} holds no {HARM}, so its texts and labels are not known. Let its audit finish: the same command "
            "goes on where it stopped."
        )
    harm = pd.read_parquet(path)
    if not np.array_equal(harm["row"].to_numpy(), influence["sample"].values):
        raise RunFolderError(
            f"The rows of {path} are not those of the influence tensor beside it, so they are not of one audit. Audit "
            "again with --overwrite."
        )
    return harm


def planted_rows(harm: pd.DataFrame) -> Bool[np.ndarray, " n"] | None:
    """Which rows were planted, for measures alone; None where nothing was."""
    return harm["planted"].to_numpy(bool) if "planted" in harm else None


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that a reader never sees half of it.

    Raises:
        RunFolderError: when it cannot be written.
    """
    try:
        with whole(path) as temporary:
            table.to_parquet(temporary, index=False)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_page(page: str, path: Path) -> None:
    """Write a page so that a reader never sees half of it.

    Raises:
        RunFolderError: when it cannot be written.
    """
    try:
        with whole(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be written: {error.strerror or error}. Make its folder writable, or copy the run to "
        "one that is."
    )
