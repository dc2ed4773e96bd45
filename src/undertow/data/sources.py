"""Finds out what a source is, and reads it into a table."""

import json
import re
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

from undertow.data.files import arrow_column, format_of, read_file
from undertow.data.wording import ACCEPTED, one_line, quoted
from undertow.errors import DataError

HUB_ID = re.compile(r"(?P<path>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^:\[\]]+))?:(?P<split>[\w.+-]+(\[[^\]]*\])?)", re.ASCII)


def read_table(source: str | Path | Dataset | pd.DataFrame) -> tuple[Dataset, str]:
    """The rows of a source, and a short description of it (``reviews.csv``, ``glue:sst2:train``).

    A local path that exists is always read as such; other strings are hub ids.

    Raises:
        DataError: the source is missing, of an unknown kind, unreadable, or has no rows.
    """
    if isinstance(source, Dataset):
        table, description = source, "in-memory Dataset"
    elif isinstance(source, pd.DataFrame):
        table, description = _from_frame(source), "in-memory DataFrame"
    elif isinstance(source, datasets.DatasetDict):
        raise DataError(
            f"A DatasetDict came, with the splits {quoted(list(source))}. Give one of them, such as "
            f"dataset['{next(iter(source), 'train')}']."
        )
    elif isinstance(source, str | Path):
        table, description = _from_place(source)
    else:
        raise DataError(f"The source is a {type(source).__name__}, which cannot be read. {ACCEPTED}")
    if len(table) == 0:
        raise DataError(f"The source {description} has no rows. Give a source with at least one labelled row.")
    # A format such as "torch" would turn values into tensors; plain Python values are needed.
    return table.with_format(None), description


def _from_place(source: str | Path) -> tuple[Dataset, str]:
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user, no permission
        raise DataError(f"The path '{source}' cannot be looked up: {one_line(error)}. {ACCEPTED}") from error
    if path.is_dir():
        return _from_folder(path, None), path.name or str(path)
    if path.exists():
        if format_of(path) is None:
            raise DataError(f"The file {path} has the extension '{path.suffix}', which is not known. {ACCEPTED}")
        return read_file(path), path.name
    front, _, split = str(source).rpartition(":")
    folder = Path(front).expanduser()
    if front and folder.is_dir():
        return _from_folder(folder, split), f"{folder.name}:{split}"
    if front and folder.is_file():
        raise DataError(f"'{source}' names a split of the file {folder}, but a file has none. Give '{folder}' alone.")
    if isinstance(source, Path) or format_of(path) or source.startswith(("/", "./", "../", "~")):
        raise DataError(f"There is no file or folder {source} (looked from {Path.cwd()}). Check the path. {ACCEPTED}")
    return _from_hub(source), source


def _from_frame(frame: pd.DataFrame) -> Dataset:
    named = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    twice = sorted(set(named.columns[named.columns.duplicated()]))
    if twice:
        raise DataError(f"The DataFrame has more than one column named {quoted(twice)}. Rename these columns.")
    places = [f"row {row}" for row in range(len(named))]
    try:
        return Dataset(pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata(None))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        for name in named.columns:
            arrow_column(name, named[name].tolist(), "the DataFrame", places)
        raise DataError(
            f"The DataFrame cannot be read: {one_line(error)}. Keep columns of text, numbers, dates and labels only."
        ) from error


def _from_folder(folder: Path, split: str | None) -> Dataset:
    """A folder written by ``save_to_disk``, of a Dataset or of a DatasetDict and a split."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            if split not in splits:
                came = f"has no split '{split}'" if split else "holds a DatasetDict, and no split was named"
                raise DataError(
                    f"The folder {folder} {came}. Its splits are {quoted(splits)}; give one of them, such as "
                    f"'{folder}:{splits[0] if splits else 'train'}'."
                )
            return datasets.load_from_disk(folder / str(split))
        if not (folder / "state.json").is_file():
            raise DataError(f"The folder {folder} was not written by save_to_disk (no state.json in it). {ACCEPTED}")
        if split:
            raise DataError(
                f"The folder {folder} holds a single Dataset, which has no split '{split}'. Give '{folder}' alone."
            )
        return datasets.load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"The folder {folder} cannot be read: {one_line(error)}. Write it anew with save_to_disk, or give a file."
        ) from error


def _from_hub(source: str) -> Dataset:
    parts = HUB_ID.fullmatch(source)
    if parts is None:
        raise DataError(
            f"'{source}' is neither an existing file or folder nor a hub id with a split. {ACCEPTED} Check "
            f"the path, or add the split ('{source}:train')."
        )
    path = parts["path"]
    # `datasets` would read whatever lies in a folder of that name, or for a format's name in the current one.
    if Path(path).exists() or path in _PACKAGED_DATASETS_MODULES:
        reason = "a local folder of that name exists" if Path(path).exists() else "that is a file format"
        raise DataError(
            f"'{source}' is not read from the hub: '{path}' names no data set, {reason}. Give the id with "
            f"its owner ('owner/{path}:split'). {ACCEPTED}"
        )
    try:
        return datasets.load_dataset(path, parts["config"], split=parts["split"])
    # What a download raises depends on the hub client, its version and the network.
    except Exception as error:
        raise DataError(
            f"The hub data set '{source}' (path '{path}', config {parts['config'] or 'none'}, split "
            f"'{parts['split']}') cannot be loaded: {one_line(error)}. Check its name, config and split, and "
            f"the network; without network give a local source. {ACCEPTED}"
        ) from error
