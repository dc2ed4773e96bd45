"""What an audit leaves: the object it returns, the files of its run folder, and both from a run that is finished."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from datasets import Dataset

from undertow.data import write_jsonl
from undertow.errors import RunFolderError
from undertow.influence.store import open_influence, user_rows
from undertow.metrics.noise import NoiseDetection
from undertow.pipeline.actions import advised, cleaned_rows
from undertow.pipeline.controls.stage import Controlled
from undertow.pipeline.detections import detection_curves, detections, group_detections
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.model import Candidate
from undertow.pipeline.results import ArmResult, Results, SourceResult
from undertow.pipeline.retrain import best_remedy
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import DEFAULT_CUT, AuditSettings
from undertow.pipeline.written import write_table


@dataclass(frozen=True)
class Audit:
    """What an audit returns.

    Attributes:
        harm: the harm table, one row per training sample (see `undertow.pipeline.harm.harm_table`).
        influence: the influence tensor (estimator, module, query, sample); on disk where there is a run folder.
        cleaned: the rows after the action that won (``results.remedy``), in the user's columns.
        removed: the rows that this action leaves out.
        results: accuracies, noise detection, counts and notes.
        manifest: what ``run.json`` holds.
        folder: the run folder, or None.
    """

    harm: pd.DataFrame
    influence: xr.Dataset
    cleaned: Dataset
    removed: Dataset
    results: Results
    manifest: Mapping[str, Any]
    folder: Path | None

    def report(self, path: str | Path) -> Path:
        """Write the one-page HTML report and return where it is.

        Raises:
            RunFolderError: when ``path`` exists; a report overwrites nothing.
        """
        from undertow.pipeline.page import write_page

        return write_page(self.harm, self.results, self.manifest, self.folder, Path(path))

    def detection_curves(self) -> dict[str, NoiseDetection]:
        """NDR curves of the audit, the loss baseline, random order and the ideal; empty without planted noise."""
        return detection_curves(self.harm)


def finished_audit(run: RunFolder, inputs: Inputs) -> Audit:
    """What a finished run holds, read back."""
    needed = ("harm.parquet", "influence.zarr", "cleaned.jsonl", "removed.jsonl", "report.html")
    gone = [name for name in needed if not (run.path / name).exists()]
    if gone:
        raise RunFolderError(
            f"{run.path} holds a finished run from which {', '.join(gone)} is gone. Put it back, use a new --out, or "
            "--overwrite to compute the run again."
        )
    harm = pd.read_parquet(run.path / "harm.parquet")
    influence = user_rows(open_influence(run.path / "influence.zarr"))
    results = Results.model_validate(run.manifest["results"])
    return audit_of(run, inputs, harm, influence, results, folder=run.path)


def audit_of(
    run: RunFolder, inputs: Inputs, harm: pd.DataFrame, influence: xr.Dataset, results: Results, *, folder: Path | None
) -> Audit:
    """What an audit returns, with the winning or advised action carried out on its rows."""
    cleaned, removed = cleaned_rows(inputs.train, harm, results.remedy)
    return Audit(
        harm=harm,
        influence=influence,
        cleaned=cleaned,
        removed=removed,
        results=results,
        manifest=run.manifest,
        folder=folder,
    )


def results_of(
    candidate: Candidate,
    inputs: Inputs,
    influence: xr.Dataset,
    harm: pd.DataFrame,
    arms: tuple[ArmResult, ...],
    controls: Controlled | str = "",
    notes: tuple[str, ...] = (),
) -> Results:
    """Accuracies, noise detection, counts and notes of an audit; ``controls`` may say why there are none."""
    settings = candidate.settings
    controlled = controls if isinstance(controls, Controlled) else None
    uncontrolled = (controls,) if isinstance(controls, str) and controls else ()
    return Results(
        model=candidate.name,
        training_source=inputs.train.source,
        classes=inputs.train.classes,
        training_rows=len(inputs.train),
        selection_rows=len(inputs.selection),
        query_rows=len(inputs.queries),
        modules=influence.sizes["module"],
        parameters=int(influence["size"].sum()),
        query_accuracy=float(influence["query_correct"].mean()),
        flagged=int(harm["flagged"].sum()),
        removed=int(harm["removed"].sum()),
        evaluated_on=inputs.evaluated_on if arms else "",
        detected=inputs.detected,
        cut=_cut(settings, controlled, len(harm)),
        controls=None if controlled is None else controlled.result,
        notes=(*inputs.notes, *candidate.notes, *notes, *uncontrolled, *_truncation(influence, settings)),
        planted=int(harm["planted"].sum()) if "planted" in harm else 0,
        detections=detections(harm, influence, settings),
        group_detections=group_detections(harm),
        labelled_again=None if inputs.again is None else inputs.again.share,
        sources=() if controlled is None else tuple(SourceResult(**vars(rate)) for rate in controlled.rates),
        arms=arms,
        remedy=best_remedy(arms) if arms else advised(harm),
    )


def _cut(settings: AuditSettings, controlled: Controlled | None, rows: int) -> float:
    if settings.cut is None and controlled is not None:
        return controlled.flagged / rows
    return DEFAULT_CUT if settings.cut is None else settings.cut


def _truncation(influence: xr.Dataset, settings: AuditSettings) -> tuple[str, ...]:
    counts = {name: int(influence[f"{name}_truncated"]) for name in ("samples", "queries")}
    if not any(counts.values()):
        return ()
    samples = f"{counts['samples']:,} of {influence.sizes['sample']:,} training texts"
    queries = f"{counts['queries']:,} of {influence.sizes['query']:,} queries"
    return (
        f"{samples} and {queries} are longer than {settings.max_length} tokens and were cut; "
        "the model saw only their beginning. --max-length changes the limit, up to what the model can read.",
    )


def write_findings(run: RunFolder, result: Audit, controlled: Controlled | None = None) -> None:
    """Leave tables, cleaned data and report in the run folder, in place of what may lie there of this very run."""
    if controlled is not None:
        write_table(controlled.choices, run.path / "choices.parquet")
        write_table(controlled.cuts, run.path / "cuts.parquet")
    write_table(result.harm, run.path / "harm.parquet")
    write_jsonl(result.cleaned, run.path / "cleaned.jsonl")
    write_jsonl(result.removed, run.path / "removed.jsonl")
    (run.path / "report.html").unlink(missing_ok=True)
    result.report(run.path / "report.html")


def write_outputs(run: RunFolder, result: Audit, controlled: Controlled | None = None) -> None:
    """Leave everything in the run folder, and mark the run as finished."""
    with run.stage("outputs"):
        write_findings(run, result, controlled)
    run.sweep()
