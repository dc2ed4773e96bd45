"""Filling the report from an audit."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from undertow.errors import RunFolderError
from undertow.metrics.noise import NoiseDetection
from undertow.pipeline.detections import detection_curves
from undertow.pipeline.results import ASKED, ArmResult, ControlsResult, JudgedResult, Results
from undertow.pipeline.settings import AuditSettings, option_flag
from undertow.report import Arm, ControlsView, Judged, NDRCurve, ReportData, Stage, write_report

# Sources that the report lists.
_SOURCES = 10
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
        estimator=_estimator(asked, results),
        layers=_layers(asked, results),
        aggregation=_aggregation(asked, results),
        cut=results.cut,
        curves=tuple(_curve(name, c) for name, c in detection_curves(harm).items()),
        arms=tuple(_arm(a) for a in results.arms),
        remedy=results.remedy,
        evaluated_on=f"Compared on {results.evaluated_on}." if results.arms else "",
        notes=(*results.notes, *results.detected),
        stages=tuple(Stage(name, s["seconds"], s["peak_memory_mb"]) for name, s in manifest["stages"].items()),
        configuration={k: _shown(v) for k, v in asked.items()},
        versions=manifest["versions"],
        fingerprints=manifest.get("fingerprints", {}),
        next_steps=next_steps(asked, folder, results.arms != ()),
        controls=None if results.controls is None else _controls(results.controls, results),
    )


def _arm(a: ArmResult) -> Arm:
    gain = (a.difference, a.difference_low, a.difference_high)
    return Arm(a.name, a.rows, a.accuracy, a.low, a.high, *gain, a.changed)


def _controls(found: ControlsResult, results: Results) -> ControlsView:
    return ControlsView(
        anchors=found.anchors,
        canaries=found.canaries,
        judged=tuple(_judged(j, found.harm) for j in found.judged),
        remarks=found.details,
        sources=tuple((s.name, s.rows, s.rate, s.low, s.high) for s in results.sources[:_SOURCES]),
        transitions=tuple((t.given, t.true, t.share) for t in found.transitions),
    )


def _judged(judged: JudgedResult, used: str) -> Judged:
    def interval(value: float | None, error: float | None) -> tuple[float, float, float] | None:
        if value is None or error is None:
            return None
        return value, max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0)

    return Judged(
        harm_name(judged.name),
        interval(judged.canaries, judged.canaries_error),
        interval(judged.anchors, judged.anchors_error),
        judged.name == used,
    )


def harm_name(name: str) -> str:
    """A harm as a reader knows it."""
    known = {
        "stack": "probes and model together",
        "probe": "probes alone",
        ASKED: "as you chose",
    }
    return known.get(name, name)


def _estimator(asked: Mapping[str, Any], results: Results) -> str:
    first = str(asked["estimators"][0])
    return first if _alone(results) else f"{first}, the loss, and probes before fine-tuning"


def _layers(asked: Mapping[str, Any], results: Results) -> str:
    return str(asked["layers"]) if _alone(results) else "all, and head once more"


def _aggregation(asked: Mapping[str, Any], results: Results) -> str:
    if _alone(results):
        return str(asked["aggregate"])
    return f"{asked['aggregate']}, then {harm_name(results.controls.harm) if results.controls else ''}"


def _alone(results: Results) -> bool:
    """Whether the harm is that of one estimator and aggregation."""
    return results.controls is None or results.controls.harm == ASKED


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
    steps.append(shlex.join(["head", "-n", "3", str(folder / "cleaned.jsonl")]))
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
