"""What an audit prints when it ends."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from undertow.pipeline.audit import Audit, audit
from undertow.pipeline.page import next_steps
from undertow.pipeline.results import Results
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Bars

WORST = 10


def audit_and_print(
    model: str, train: Any, validation: Any, *, out: Path, settings: AuditSettings, **sources: Any
) -> Audit:
    """Run an audit with progress on standard error and its summary on standard output."""
    bars = Bars(Console(stderr=True))
    result = audit(model, train, validation, out=out, settings=settings, progress=bars, **sources)
    print_summary(result, Console())
    return result


def print_summary(result: Audit, console: Console) -> None:
    """Print flagged rows, the worst ten, accuracies, noise detection, files and what to do next."""
    results = result.results
    console.print()
    console.print(escape(results.verdict), style="bold", highlight=False)
    console.print(
        f"{results.training_rows:,} training rows, {results.query_rows:,} queries (of which the model gets "
        f"{results.query_accuracy:.1%} right), {results.modules} modules with {results.parameters:,} parameters.",
        highlight=False,
    )
    console.print(_worst(result.harm))
    if results.detections:
        console.print(_detections(results))
    if results.arms:
        console.print(_arms(results))
        console.print(f"Compared on {escape(results.evaluated_on)}.", highlight=False)
    for note in results.notes[1:] if _detected(results) else results.notes:
        console.print(f"Note: {escape(note)}", highlight=False)
    _print_files(result, console)


def _detected(results: Results) -> bool:
    return bool(results.notes) and results.notes[0].startswith(results.training_source + ":")


def _worst(harm: pd.DataFrame) -> Table:
    table = Table(title=f"The {min(WORST, len(harm))} most harmful rows", title_justify="left")
    for name, justify in (("rank", "right"), ("row", "right"), ("label", "left"), ("suggestion", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("model says")
    if "planted" in harm:
        table.add_column("planted")
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in harm.nsmallest(WORST, "rank").to_dict("records"):
        cells = [str(row["rank"]), str(row["row"]), row["label"], row["suggested_label"] or ""]
        cells.append(f"{row['predicted_label']} {row['predicted_probability']:.0%}")
        if "planted" in harm:
            cells.append("yes" if row["planted"] else "no")
        pair = f" ‖ {row['text_pair']}" if row.get("text_pair") else ""
        cells.append(" ".join((row["text"] + pair).split()))
        table.add_row(*map(escape, cells))
    return table


def _detections(results: Results) -> Table:
    table = Table(title=f"Share of the {results.planted:,} planted flips found", title_justify="left")
    table.add_column("score")
    for name in ("NDR@10", "NDR@20", "NDR@30", "AUC-NDR"):
        table.add_column(name, justify="right")
    groups = tuple(d.model_copy(update={"name": f"audit, layers {d.name}"}) for d in results.group_detections)
    for d in (*results.detections, *groups):
        table.add_row(escape(d.name), *(f"{v:.3f}" for v in (d.ndr10, d.ndr20, d.ndr30, d.auc)))
    return table


def _arms(results: Results) -> Table:
    table = Table(title="Fine-tuned again from the same start", title_justify="left")
    table.add_column("training set")
    for name in ("rows", "accuracy", "95% interval", "against as given (95%)"):
        table.add_column(name, justify="right")
    for a in results.arms:
        change = f"{100 * a.difference:+.1f} ({100 * a.difference_low:+.1f} to {100 * a.difference_high:+.1f})"
        shown = "" if a.name == "as given" else change
        table.add_row(a.name, f"{a.rows:,}", f"{a.accuracy:.1%}", f"{a.low:.1%} to {a.high:.1%}", shown)
    return table


def _print_files(result: Audit, console: Console) -> None:
    folder = result.folder
    if folder is None:
        return
    for name, what in (
        ("report.html", "open it in a browser"),
        ("harm.parquet", "every row with its harm"),
        ("cleaned.jsonl", f"{len(result.cleaned):,} rows to keep, with your labels"),
        ("removed.jsonl", f"{len(result.removed):,} flagged rows, to look through"),
        ("influence.zarr", "the influence tensor"),
    ):
        console.print(f"  {folder / name}  {what}", markup=False, highlight=False, soft_wrap=True)
    console.print("Next:", highlight=False)
    asked = result.manifest["configuration"]
    for step in next_steps(asked, folder, bool(result.results.arms)):
        console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
