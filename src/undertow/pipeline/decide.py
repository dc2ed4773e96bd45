"""Deciding on the rows of a finished audit: a copy of the data with what was done and why, which can be undone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from undertow.controls.conformal import null_share, wrong_probability
from undertow.controls.sources import source_rates
from undertow.data import Samples, fingerprint, load_samples, plain_rows, read_table, row_hashes, write_rows
from undertow.errors import ConfigError, DataError, RunFolderError
from undertow.pipeline.actions import SUGGESTION, WEIGHT, likelier_labels, with_labels
from undertow.pipeline.inputs import Source
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.written import HARM

ACTIONS = ("drop", "relabel", "weight", "review")
SUFFIX = ".undertow.json"
_REASONS = ("undertow_action", "undertow_rank", "undertow_wrong", "undertow_suggested")


@dataclass(frozen=True)
class Decided:
    """What was written.

    Attributes:
        path: the data with the decision carried out.
        manifest: what undoes it.
        counts: how many rows each action met.
    """

    path: Path
    manifest: Path
    counts: Mapping[str, int]


def decide(
    run: str | Path,
    out: str | Path,
    *,
    action: str = "drop",
    above: int | float | None = None,
    sources: Sequence[str] = (),
    train: Source | None = None,
) -> Decided:
    """Carry out a decision on the training data of a run, and write it with its reasons.

    drop leaves out the rows that the audit removes, or the flagged ones of a probability of being wrong of ``above`` or
    more. relabel gives flagged rows the suggested label where it is likelier right than the given one, or where its
    probability is ``above`` or more. What is flagged beside is left to review. weight keeps all rows and adds the
    column ``weight``, the probability that the label is right; review marks the flagged rows.

    Columns that are added: undertow_action, undertow_rank, undertow_wrong (probability of the label to be wrong) and
    undertow_suggested. Beside the file goes a manifest with a hash of every row, by which `restore` undoes it.

    Args:
        run: run folder of a finished audit.
        out: file to write: .csv, .tsv, .jsonl or .parquet.
        action: drop, relabel, weight or review.
        above: for drop, the probability of being wrong from which flagged rows are dropped (by default, what the audit
            removes); for relabel, that of the suggested label (by default, where it is likelier right than the given
            one).
        sources: act on the rows of these sources only, such as annotators; then ``above`` counts for all of their
            rows, flagged or not.
        train: the training data where the run had it in memory.

    Raises:
        RunFolderError: when the folder is no finished run, or ``out`` exists.
        ConfigError: for an unknown action, or one that needs the calibration that the run does not have.
        DataError: when the data is not what was audited, or cannot be written in this format.
    """
    path = Path(out)
    harm, samples = read_decidable(run, train)
    _check(path, action, above, harm)
    acted = _actions(action, above, harm, _chosen(samples, sources))
    table = samples.table
    labels = table[samples.columns.label][:]
    before = {int(i): labels[i] for i in np.flatnonzero(acted == "relabel")}
    added = _reasons(harm, acted, action)
    taken = [name for name in added if name in table.column_names]
    if taken:
        raise DataError(f"The data already has the column {taken[0]}. Rename it, as undertow adds one of this name.")
    keep = np.flatnonzero(acted != "drop")
    dropped = np.flatnonzero(acted == "drop")
    arrow = with_labels(samples, acted == "relabel", harm["suggested_label"].tolist()).with_format("arrow")[:]
    for name, column in added.items():
        arrow = arrow.append_column(name, pa.array(column, from_pandas=True))
    write_rows(Dataset(arrow.take(keep)), path)
    told = {
        "run": str(Path(run).resolve()),
        "action": action,
        "rows": len(table),
        "columns": table.column_names,
        "added": list(added),
        "label": samples.columns.label,
        "labels": before,
        "dropped": {int(i): row for i, row in zip(dropped, plain_rows(table, dropped.tolist()), strict=True)},
        "hashes": row_hashes(table),
    }
    manifest = path.with_name(path.name + SUFFIX)
    manifest.write_text(json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8")
    names, counts = np.unique(acted, return_counts=True)
    return Decided(path, manifest, dict(zip(names.tolist(), counts.tolist(), strict=True)))


def restore(path: str | Path, out: str | Path) -> Path:
    """Undo `decide`: write the rows as they were, and make sure that each is, by its hash.

    Raises:
        RunFolderError: when there is no manifest beside the file, or ``out`` exists.
        DataError: when a row is not what was written.
    """
    source, target = Path(path), Path(out)
    manifest = source.with_name(source.name + SUFFIX)
    if not manifest.is_file():
        raise RunFolderError(
            f"{manifest} is not there, so it is not known what was done to {source}. Keep them together."
        )
    _check_new(target)
    told = json.loads(manifest.read_text(encoding="utf-8"))
    table, _ = read_table(source)
    dropped = {int(i): row for i, row in told["dropped"].items()}
    kept = [i for i in range(told["rows"]) if i not in dropped]
    if len(table) != len(kept):
        raise DataError(
            f"{source} holds {len(table):,} rows, and {len(kept):,} were written. Rows were added or taken away since, "
            "so it cannot be restored."
        )
    columns: dict[str, list[Any]] = {name: [None] * told["rows"] for name in told["columns"]}
    for name in told["columns"]:
        for i, value in zip(kept, table[name][:] if name in table.column_names else (), strict=False):
            columns[name][i] = value
        for i, row in dropped.items():
            columns[name][i] = row[name]
    for i, label in told["labels"].items():
        columns[told["label"]][int(i)] = label
    arrow = pa.table({name: _column(v, table, name) for name, v in columns.items()})
    whole = Dataset(arrow)
    changed = [i for i, (a, b) in enumerate(zip(row_hashes(whole), told["hashes"], strict=True)) if a != b]
    if changed:
        raise DataError(
            f"{len(changed):,} rows of {source} are not what was written (first: row {changed[0]}). They were changed "
            "since, so the file cannot be restored."
        )
    write_rows(whole, target)
    return target


def group_table(run: str | Path, column: str, *, train: Source | None = None) -> pd.DataFrame:
    """How many labels are wrong in each group of rows, the worst first.

    Columns: group, rows, flagged (share), share, low and high (of wrong labels, 95%). The rates follow from the
    p-values: the column wrong already holds the rates of the sources, which would count twice.

    Raises:
        ConfigError: when the run was not calibrated.
        DataError: when there is no such column.
    """
    harm, samples = read_decidable(run, train)
    if "wrong" not in harm:
        raise ConfigError("Groups are compared by the probability of a wrong label, and this run was not calibrated.")
    if column not in samples.table.column_names:
        raise DataError(f"There is no column '{column}'. The columns are: {', '.join(samples.table.column_names)}.")
    named = ["" if v is None else str(v) for v in samples.table[column][:]]
    p = harm["p_value"].to_numpy()
    rates = source_rates(wrong_probability(p, null_share(p)), named)
    flagged = harm["flagged"].groupby(np.array(named, dtype=object)).mean()
    return pd.DataFrame(
        [(r.name, r.rows, float(flagged[r.name]), r.rate, r.low, r.high) for r in rates],
        columns=["group", "rows", "flagged", "share", "low", "high"],
    )


def read_decidable(run: str | Path, train: Source | None) -> tuple[pd.DataFrame, Samples]:
    """The harm table of a finished run, and the training data it is of.

    Raises:
        RunFolderError: when the folder is no finished run.
        ConfigError: when the data was in memory and does not come, or noise was planted in it.
        DataError: when the data is not what was audited.
    """
    folder = RunFolder.made(Path(run))
    if not folder.done("outputs"):
        raise RunFolderError(f"{folder.path} is not finished. The command that started it goes on where it stopped.")
    asked = folder.manifest["configuration"]
    if train is None and str(asked["train"]).startswith("in-memory"):
        raise ConfigError("The training data of this run was in memory. Give it (train=) to decide on its rows.")
    samples = load_samples(
        asked["train"] if train is None else train,
        text=asked["text_column"],
        text_pair=asked["text_pair_column"],
        label=asked["label_column"],
        source_column=asked.get("source_column"),
    )
    harm = pd.read_parquet(folder.path / HARM)
    if "planted" in harm:
        raise ConfigError(
            f"{folder.path} audited labels that --plant had flipped, which are not those of your data. Audit without "
            "--plant to decide on its rows."
        )
    if len(harm) < len(samples) and harm["row"].between(0, len(samples) - 1).all():
        samples = samples.select(harm["row"].to_numpy())  # the others were labelled again, and not audited
    same = samples.texts == harm["text"].tolist() and samples.label_names == harm["label"].tolist()
    if not same:
        raise DataError(
            f"{samples.source} is not what was audited: {len(samples):,} rows ({fingerprint(samples)[:12]}), and "
            f"{len(harm):,} were. Give the data as it was then."
        )
    return harm, samples


def _check(path: Path, action: str, above: int | float | None, harm: pd.DataFrame) -> None:
    if action not in ACTIONS:
        raise ConfigError(f"--action {action} is not known. Known are: {', '.join(ACTIONS)}.")
    if above is not None and not 0 <= above < 1:
        raise ConfigError(f"--above {above:g} is outside its range. It is a probability of 0 or more, below 1.")
    needed = SUGGESTION if action == "relabel" else "wrong"
    if needed not in harm and (action in ("relabel", "weight") or above is not None):
        raise ConfigError(
            f"--action {action} goes by the probability of a wrong label, and this run was not calibrated. Audit again "
            "without --no-calibrate and with 500 rows or more, or use --action drop."
        )
    _check_new(path)


def _check_new(path: Path) -> None:
    if path.exists():
        raise RunFolderError(f"{path} exists and is not overwritten. Name another file, or delete it.")


def _chosen(samples: Samples, sources: Sequence[str]) -> np.ndarray | None:
    """Which rows are of the named sources; None for all.

    Raises:
        DataError: when the data names no sources, or not these.
    """
    if not sources:
        return None
    if samples.sources is None:
        raise DataError("The data has no column of sources. Name it with --source-column when you audit.")
    unknown = sorted(set(sources) - set(samples.sources))
    if unknown:
        known = ", ".join(sorted(set(samples.sources))[:8])
        raise DataError(f"No row is of the source {', '.join(unknown)}. The sources are: {known}, ….")
    return np.isin(np.array(samples.sources, dtype=object), list(sources))


def _actions(
    action: str, above: int | float | None, harm: pd.DataFrame, chosen: np.ndarray | None = None
) -> np.ndarray:
    """What is done to each row: keep, drop, relabel or review."""
    flagged = harm["flagged"].to_numpy(bool)
    if chosen is not None:
        flagged = chosen if above is not None else flagged & chosen
    acted = np.where(flagged, "review", "keep").astype(object)
    if action == "drop":
        dropped = harm["removed"].to_numpy(bool) if above is None else harm["wrong"].to_numpy() >= above
        acted[flagged & dropped] = "drop"
    if action == "relabel":
        surer = likelier_labels(harm) if above is None else harm[SUGGESTION].to_numpy() >= above
        acted[flagged & surer] = "relabel"
    return acted


def _reasons(harm: pd.DataFrame, acted: np.ndarray, action: str) -> dict[str, list[Any]]:
    wrong = harm["wrong"].tolist() if "wrong" in harm else [None] * len(harm)
    columns = (acted.tolist(), harm["rank"].tolist(), wrong, harm["suggested_label"].tolist())
    added = dict(zip(_REASONS, columns, strict=True))
    if action == WEIGHT:
        added[WEIGHT] = (1 - harm["wrong"]).tolist()
    return added


def _column(values: list[Any], table: Dataset, name: str) -> pa.Array:
    """Values as a column of the type that it has in the file, where they all are of it."""
    field = table.with_format("arrow")[:].schema.field(name) if name in table.column_names else None
    for kind in (field.type if field is not None else None, None):
        try:
            return pa.array(values, kind, from_pandas=True)
        except (pa.ArrowException, ValueError, TypeError):
            continue
    return pa.array([None if v is None else str(v) for v in values])
