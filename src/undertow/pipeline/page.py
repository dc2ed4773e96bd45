"""Filling the report from an audit."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from undertow.calibrate.choices import FEW
from undertow.errors import RunFolderError
from undertow.metrics.noise import NoiseDetection
from undertow.pipeline.choices import PROBE
from undertow.pipeline.detections import detection_curves
from undertow.pipeline.results import ASKED, CalibrationResult, Results
from undertow.pipeline.settings import AuditSettings, option_flag
from undertow.report import Arm, CalibrationView, Judged, NDRCurve, ReportData, Stage, write_report

_GIVEN = ("model", "train", "validation", "queries", "test")


def write_page(
    harm: pd.DataFrame, results: Results, manifest: Mapping[str, Any], folder: Path | None, path: Path
) -> Path:
    """Write the HTML page of an audit.

    Raises:
        RunFolderError: when the file exists.
    """
    if path.exists():
        raise RunFolderError(f"{path} exists and is not overwritten. Name another file, or delete it.")
    return write_report(report_data(harm, results, manifest, folder), path)


def report_data(harm: pd.DataFrame, results: Results, manifest: Mapping[str, Any], folder: Path | None) -> ReportData:
    """What the page shows, from what an audit found; ``folder`` is its run folder, if any."""
    asked = manifest["configuration"]
    return ReportData(
        model=results.model,
        training_source=results.training_source,
        classes=results.classes,
        created=manifest["created"],
        verdict=results.verdict,
        harm=harm,
        estimator=asked["estimators"][0],
        layers=asked["layers"],
        aggregation=_aggregation(asked, results),
        cut=results.cut,
        curves=tuple(_curve(name, c) for name, c in detection_curves(harm).items()),
        arms=tuple(Arm(a.name, a.rows, a.accuracy, a.low, a.high) for a in results.arms),
        evaluated_on=results.evaluated_on if results.arms else "",
        notes=(*results.notes, *results.detected),
        stages=tuple(Stage(name, s["seconds"], s["peak_memory_mb"]) for name, s in manifest["stages"].items()),
        configuration={k: _shown(v) for k, v in asked.items()},
        versions=manifest["versions"],
        fingerprints=manifest.get("fingerprints", {}),
        next_steps=next_steps(asked, folder, results.arms != ()),
        calibration=None if results.calibration is None else _calibration(results.calibration),
    )


def _calibration(found: CalibrationResult) -> CalibrationView:
    remarks = [
        "Their own rows are audited with the label that you gave. That the model learned another one moved their "
        f"harm: AUROC {found.canary_shift:.2f} against the rest, where 0.5 is none; they are moved back to "
        "its quantiles."
    ]
    parts = [f"{'the probe' if name == PROBE else 'the average'} {part:.0%}" for name, part in found.weights.items()]
    remarks.append(
        f"Of what is weighed, {' and '.join(parts)}. How many labels are wrong was asked of {found.reader}, whose "
        f"separation of the classes of trusted rows is {found.separation:.2f} (0 is none, 1 is without doubt)."
    )
    if round(found.power, 2) < 1:
        remarks.append(
            "Probes of different layers agree less on the training rows than on the trusted ones: the two are not "
            "quite alike. So what probes say of training rows is taken to be less sure (power "
            f"{found.power:.2f}; 1 is as sure)."
        )
    if found.way == ASKED:
        remarks.append("The harm is the one that you asked for; the choices are shown beside it.")
    return CalibrationView(
        canaries=found.canaries,
        choices=found.choices,
        best=tuple(Judged(c.name, c.auroc, c.low, c.high) for c in found.best),
        ways=tuple(Judged(told_way(e.name), e.auroc, e.low, e.high, e.name == found.way) for e in found.entries),
        remarks=tuple(remarks),
    )


def told_way(name: str) -> str:
    """A way to one harm as a reader is told of it."""
    known = {
        "average": f"average of the best {FEW} choices",
        "single": "the best choice",
        "learned": f"the best {FEW} choices and the probe",
    }
    return known.get(name, f"fixed: {name}")


def _aggregation(asked: Mapping[str, Any], results: Results) -> str:
    found = results.calibration
    if found is None or found.way == ASKED:
        return str(asked["aggregate"])
    return f"calibrated: {told_way(found.way)}"


def next_steps(asked: Mapping[str, Any], folder: Path | None, retrained: bool) -> tuple[str, ...]:
    """Commands worth running after an audit."""
    if folder is None:
        return ()
    steps = []
    if not retrained and not any(str(asked[name]).startswith("in-memory") for name in _GIVEN):
        told = shlex.join([*_options(asked), "--retrain", "--out", f"{folder}-retrained"])
        steps.append(f"undertow audit {told}")
    table = json.dumps(str(folder / "harm.parquet"), ensure_ascii=False)  # its double quotes need none of the shell's
    worst = f'import pandas; print(pandas.read_parquet({table}).nsmallest(50, "rank"))'
    steps.append(shlex.join(["python", "-c", worst]))
    steps.append(shlex.join(["head", "-n", "3", str(folder / "removed.jsonl")]))
    return tuple(steps)


def _options(asked: Mapping[str, Any]) -> list[str]:
    """The options of a command line that asks for this configuration again."""
    defaults = AuditSettings().model_dump(mode="json")
    told = []
    for name, value in asked.items():
        if value is None or value == defaults.get(name):
            continue
        told.append(option_flag(name) if value is not False else f"--no-{name.replace('_', '-')}")
        if not isinstance(value, bool):
            told.append(",".join(value) if isinstance(value, list) else str(value))
    return told


def _curve(name: str, curve: NoiseDetection) -> NDRCurve:
    return NDRCurve(name, curve.inspected, curve.found, curve.ndr(0.1), curve.ndr(0.2), curve.ndr(0.3), curve.auc)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
