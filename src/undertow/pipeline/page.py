"""Filling the report from an audit."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import RunFolderError
from undertow.metrics.noise import NoiseDetection
from undertow.report import Arm, NDRCurve, ReportData, Stage, write_report

if TYPE_CHECKING:
    from undertow.pipeline.audit import Audit


def write_page(audit: "Audit", path: Path) -> Path:
    """Write the HTML page of an audit.

    Raises:
        RunFolderError: when the file exists.
    """
    if path.exists():
        raise RunFolderError(f"{path} exists and is not overwritten. Name another file, or delete it.")
    return write_report(report_data(audit), path)


def report_data(audit: "Audit") -> ReportData:
    """What the page shows, from an audit."""
    results, manifest = audit.results, audit.manifest
    asked = manifest["configuration"]
    return ReportData(
        model=results.model,
        training_source=results.training_source,
        classes=results.classes,
        created=manifest["created"],
        verdict=results.verdict,
        harm=audit.harm,
        estimator=asked["estimators"][0],
        layers=asked["layers"],
        aggregation=asked["aggregate"],
        cut=asked["cut"],
        curves=tuple(_curve(name, c) for name, c in audit.detection_curves().items()),
        arms=tuple(Arm(a.name, a.rows, a.accuracy, a.low, a.high) for a in results.arms),
        evaluated_on=results.evaluated_on if results.arms else "",
        notes=results.notes,
        stages=tuple(Stage(name, s["seconds"], s["peak_memory_mb"]) for name, s in manifest["stages"].items()),
        configuration={k: _shown(v) for k, v in asked.items()},
        versions=manifest["versions"],
        fingerprints=manifest.get("fingerprints", {}),
        next_steps=next_steps(asked, audit.folder, results.arms != ()),
    )


def next_steps(asked: Mapping[str, Any], folder: Path | None, retrained: bool) -> tuple[str, ...]:
    """Commands worth running after an audit."""
    if folder is None:
        return ()
    cleaned = shlex.quote(str(folder / "cleaned.jsonl"))
    steps = []
    if not retrained and not str(asked["train"]).startswith("in-memory"):
        quoted = {name: shlex.quote(str(asked[name])) for name in ("model", "train", "validation")}
        told = " ".join(f"--{name} {value}" for name, value in quoted.items())
        steps.append(f"undertow audit {told} --retrain --out {shlex.quote(str(folder) + '-retrained')}")
    steps.append(
        f"python -c \"import pandas; print(pandas.read_parquet('{folder / 'harm.parquet'}').nsmallest(50, 'rank'))\""
    )
    steps.append(f"head -n 3 {cleaned}")
    return tuple(steps)


def _curve(name: str, curve: NoiseDetection) -> NDRCurve:
    return NDRCurve(name, curve.inspected, curve.found, curve.ndr(0.1), curve.ndr(0.2), curve.ndr(0.3), curve.auc)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
