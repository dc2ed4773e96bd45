"""One cell from its data to its measures; every part is kept, and a part that is there is not computed again."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from undertow.data import Planted
from undertow.errors import TrainingError
from undertow.models.loading import with_adapter
from undertow.pipeline.audit import audit
from undertow.pipeline.model import Candidate, describe_model, load_candidate
from undertow.pipeline.scorer import Scorer
from undertow.pipeline.settings import AuditSettings, settings_from
from undertow.pipeline.stages import Cost
from undertow.pipeline.whole import whole
from undertow.progress import Reporter
from undertow.study.cells import Cell
from undertow.study.marks import RUN, TABLES, is_done, note_done
from undertow.study.measuring import Choice, detection_rows, harms, layer_rows
from undertow.study.planting import planted_rows
from undertow.study.retraining import MEASURES, Removal, distinct, removals, result_file, retrained, retraining_cost
from undertow.study.tasks import TaskData, task_data


@dataclass(frozen=True)
class Ready:
    """A cell whose data is read and whose model is loaded."""

    data: TaskData
    planted: Planted
    candidate: Candidate
    settings: AuditSettings


def run_cell(cell: Cell, out: Path, show: Reporter) -> None:
    """Compute a cell, or what is missing of it, and write its tables.

    Raises:
        UndertowError: when its data, model or training cannot be used; where only trainings without some rows diverged,
            after all else is written.
    """
    folder = cell.folder(out)
    if is_done(cell, out):
        return
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    ready = prepare(cell, show)
    result = audit(
        cell.study.models[cell.model],
        ready.planted.samples,
        ready.data.selection,
        queries=ready.data.queries,
        out=folder / RUN,
        settings=ready.settings,
        progress=show,
    )
    scorer = Scorer(result.influence)  # one, so that what the two measure is ranked once
    found = harms(cell, folder / RUN, scorer)
    planted = ready.planted.planted
    results = detection_rows(cell, found, planted)
    layers, between = layer_rows(cell, folder / RUN, scorer, planted)
    made = removals(cell, found, planted)
    measured, diverged = _retrain(cell, folder, ready, made, show)
    results = with_accuracies(cell, results, made, measured)
    costs = _costs(cell, result.manifest, retraining_cost(folder, made) if made else None)
    for name, table in zip(TABLES, (results, layers, between, costs), strict=True):
        if cell.noise.kind == "column" and len(table):  # what the study says is not the rate of noise in the data
            table["rate"] = float(planted.mean())
        with whole(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    told = {
        # Of a cell that went on after an interruption, also what was done before.
        "seconds": max(time.perf_counter() - start, float(costs["seconds"][costs["method"] == ""].sum())),
        "rows": len(planted),
        "planted": int(planted.sum()),
        "tested_on": ready.data.tested_on,
        "diverged": len(diverged),
    }
    note_done(cell, out, told)
    if diverged:
        raise TrainingError(f"{len(diverged)} of {len(list(distinct(made)))} trainings diverged: {diverged[0]}")


def settings_of(cell: Cell) -> AuditSettings:
    """The settings of the audit and of all fine-tunings of a cell."""
    return settings_from(
        {
            **cell.study.compute,
            **cell.training,
            "estimators": cell.study.estimators,
            "baselines": tuple(b for b in cell.study.baselines),
            "finetune": "always",
            "calibrate": False,  # canaries would be noise beside the planted one
        }
    )


def prepare(cell: Cell, show: Reporter) -> Ready:
    """Read the data, load the model, plant the noise.

    Raises:
        UndertowError: for what cannot be used.
    """
    settings = settings_of(cell)
    data = task_data(cell.study, cell.task, cell.seed)
    described = describe_model(cell.study.models[cell.model], settings, show)
    candidate = load_candidate(described, None, data.train.classes, settings)
    planted = planted_rows(cell, data, candidate.start, candidate.settings)
    return Ready(data, planted, candidate, settings)


def _retrain(
    cell: Cell, folder: Path, ready: Ready, made: list[Removal], show: Reporter
) -> tuple[Mapping[bytes, dict[str, float]], list[str]]:
    """Results by the rows removed, NaN where the training diverged, and what those trainings said."""
    if not made:
        return {}, []
    sides = (ready.planted.samples, ready.data.selection, ready.data.test)
    audited = None
    todo = list(distinct(made))
    if not result_file(folder, np.zeros(len(ready.planted.planted), dtype=bool)).is_file():
        classes = len(ready.planted.samples.classes)
        audited = with_adapter(ready.candidate.start.base(), folder / RUN / "adapter", classes)
    found, diverged = {}, []
    for number, removal in enumerate(todo, start=1):
        show.say(f"{cell.label}: retraining {number} of {len(todo)}")
        try:
            found[removal.rows.tobytes()] = retrained(
                folder, removal, ready.candidate.start, sides, ready.candidate.settings, show, audited=audited
            )
        except TrainingError as error:  # the other choices are not to be lost with this one
            diverged.append(str(error))
            found[removal.rows.tobytes()] = dict.fromkeys(MEASURES, np.nan)
    return found, diverged


def with_accuracies(
    cell: Cell, results: pd.DataFrame, made: list[Removal], found: Mapping[bytes, dict[str, float]]
) -> pd.DataFrame:
    """The detection rows, each once for every cut that it was acted on by, and the controls."""
    keys = list(Choice("", "").row)
    empty = dict.fromkeys(("cut", "accuracy", "f1", "matthews"), np.nan)
    by_choice: dict[Choice, list[Removal]] = {}
    for removal in made:
        by_choice.setdefault(removal.choice, []).append(removal)
    rows: list[dict[str, Any]] = []
    for record in results.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        told = {name: row[name] for name in keys}
        choice = Choice(**{**told, "k": None if np.isnan(told["k"]) else told["k"]})
        acted = by_choice.pop(choice, [])
        rows += [{**row, "cut": r.cut, **found[r.rows.tobytes()]} for r in acted] or [{**row, **empty}]
    for choice, acted in by_choice.items():  # the controls, which order no rows
        rows += [{**cell.identity, **choice.row, "cut": r.cut, **found[r.rows.tobytes()]} for r in acted]
    return pd.DataFrame(rows)


def _costs(cell: Cell, manifest: Mapping[str, Any], retraining: Cost | None) -> pd.DataFrame:
    stages = {name: told for name, told in manifest["stages"].items() if "seconds" in told}
    if retraining is not None:
        stages["retraining"] = asdict(retraining)
    rows = []
    for stage, told in stages.items():
        rows.append(
            {"stage": stage, "method": "", "seconds": told["seconds"], "peak_memory_mb": told["peak_memory_mb"]}
        )
        for method, seconds in told.get("outputs", {}).get("seconds", {}).items():
            rows.append({"stage": stage, "method": method, "seconds": seconds, "peak_memory_mb": np.nan})
    return pd.DataFrame([{**cell.identity, **row} for row in rows])
