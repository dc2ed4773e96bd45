"""What an audit prints when it ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from undertow.pipeline.audit import audit
from undertow.pipeline.outcome import Audit
from undertow.pipeline.page import harm_name, next_steps
from undertow.pipeline.results import ASKED, ControlsResult, Results
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Bars
from undertow.report.text import clean, label

WORST = 10
# Scores that are shown with their AUROCs.
SHOWN = 6


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
    console.print(_worst(result.harm, console.width))
    if results.controls:
        worst = [results.sources[0].sentence] if len(results.sources) > 1 else []
        for sentence in (*worst, *results.controls.details):
            console.print(escape(sentence), highlight=False)
        console.print(_judged(results.controls))
    if results.detections:
        console.print(_detections(results, result.manifest["configuration"]))
    if results.arms:
        console.print(_arms(results))
        console.print(f"Compared on {escape(results.evaluated_on)}.", highlight=False)
    for note in results.notes:
        console.print(f"Note: {escape(note)}", highlight=False)
    _print_files(result, console)


def _worst(harm: pd.DataFrame, width: int) -> Table:
    table = _table(f"The {min(WORST, len(harm))} most harmful rows")
    planted = "planted" in harm
    for name in ("rank", "row", "label", "suggestion", "model says", *(["planted"] if planted else [])):
        table.add_column(name, justify="right" if name in ("rank", "row") else "left", no_wrap=True)
    table.add_column("text")
    room = min(20, (width - 50) // 3)  # for a label
    for row in harm.nsmallest(WORST, "rank").to_dict("records"):
        says = f"{label(row['predicted_label'], room)} {row['predicted_probability']:.0%}"
        labels = [label(row[name], room) for name in ("label", "suggested_label")]
        cells = [str(row["rank"]), str(row["row"]), *labels, says]
        if planted:
            cells.append("yes" if row["planted"] else "no")
        pair = f" ‖ {row['text_pair']}" if "text_pair" in row else ""
        # Only the text gives way where the terminal is narrow: it is the one column that may wrap, and does not.
        text = Text(clean(" ".join((row["text"] + pair).split())), no_wrap=True, overflow="ellipsis")
        table.add_row(*(Text(clean(cell)) for cell in cells), text)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _judged(found: ControlsResult) -> Table:
    """How the scores tell canaries from rows, and rows from anchors."""
    table = _table(f"Scores, judged by {found.canaries:,} canaries and {found.anchors:,} anchors (AUROC)")
    table.add_column("harm")
    for name in ("canaries against rows", "rows against anchors"):
        table.add_column(name, justify="right", no_wrap=True)

    def shown(value: float | None, error: float | None) -> str:
        return "" if value is None or error is None else f"{value:.3f} ± {1.96 * error:.3f}"

    for j in found.judged[:SHOWN]:
        used = ", used" if j.name == found.harm else ""
        cells = (shown(j.canaries, j.canaries_error), shown(j.anchors, j.anchors_error))
        table.add_row(escape(harm_name(j.name) + used), *cells)
    return table


def _detections(results: Results, asked: Mapping[str, Any]) -> Table:
    """One line a score; the chosen layers are not repeated among the layer groups."""
    title = f"Share of the {results.planted:,} planted flips found (NDR)"
    table = _table(title)
    table.add_column("score")
    for name in ("NDR@10", "NDR@20", "NDR@30", "AUC-NDR"):
        table.add_column(name, justify="right", no_wrap=True)
    main = asked["estimators"][0]
    stacked = results.controls is not None and results.controls.harm != ASKED
    audits, said = (
        (f"{harm_name(results.controls.harm)}, the audit's", None)
        if results.controls and stacked
        else (f"{main}, the audit's", asked["layers"])
    )
    named = {audits if d.name == "audit" else d.name: d for d in results.detections}
    named |= {f"{main}, layers {d.name}": d for d in results.group_detections if d.name != said}
    for name, d in named.items():
        table.add_row(escape(name), *(f"{v:.3f}" for v in (d.ndr10, d.ndr20, d.ndr30, d.auc)))
    return table


def _arms(results: Results) -> Table:
    table = _table("Fine-tuned again from the same start")
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
        ("cleaned.jsonl", f"{len(result.cleaned):,} rows, {result.results.remedy}"),
        ("removed.jsonl", f"{len(result.removed):,} rows that are left out"),
        ("influence.zarr", "the influence tensor"),
    ):
        console.print(f"  {folder / name}  {what}", markup=False, highlight=False, soft_wrap=True)
    console.print("Next:", highlight=False)
    asked = result.manifest["configuration"]
    for step in next_steps(asked, folder, bool(result.results.arms)):
        console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
