"""``undertow plan``: what an audit would take, before anything runs."""

import inspect
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from undertow.cli.audit import audit_command, told_settings

if TYPE_CHECKING:
    from undertow.pipeline.plan import Plan

# It takes what audit takes, but writes nothing.
_WRITES = ("out", "overwrite")


def plan_command(**told: Any) -> None:
    """Say what an audit with these options would take: parameters, storage, memory, time.

    Loads model and data, tries the model for ten seconds, and stops. Nothing is trained or written.
    """
    settings = told_settings(told)

    from undertow.pipeline.plan import plan
    from undertow.progress import Bars

    sources = {name: told[name] for name in ("queries", "test")}
    bars = Bars(Console(stderr=True))
    found = plan(told["model"], told["train"], told["validation"], **sources, settings=settings, reporter=bars)
    print_plan(found, settings.keep, Console())


_signature = inspect.signature(audit_command)
_parameters = [p for name, p in _signature.parameters.items() if name not in _WRITES]
plan_command.__signature__ = _signature.replace(parameters=_parameters)  # type: ignore[attr-defined]
plan_command.__annotations__ = {p.name: p.annotation for p in _parameters} | {"return": None}


def _trusted(plan: "Plan") -> str:
    """What each part of the trusted rows is for, and what more of them would buy."""
    parts = [f"{plan.selection:,} choose the checkpoint", f"{plan.queries:,} are the queries"]
    if not plan.anchors:
        return f"Trusted rows: {' and '.join(parts)}."
    return (
        f"Trusted rows: {', '.join(parts)}, and {plan.anchors:,} are trained on as anchors. Four times as many anchors "
        "would halve the scatter of what is promised."
    )


def print_plan(plan: "Plan", keep: str, console: Console) -> None:
    """Print the modules, storage, memory and times of a plan."""
    table = Table(title="Tracked modules", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("kind", "side", "modules", "parameters", "held as", "inner products by", "gradients"):
        table.add_column(name, justify="right" if name in ("modules", "parameters", "gradients") else "left")
    for m in plan.modules:
        table.add_row(m.kind, m.side, f"{m.modules:,}", f"{m.parameters:,}", m.form, m.products, size(m.bytes))
    rows = f"{plan.samples:,} training rows" + (f", {plan.canaries:,} of them canaries" if plan.canaries else "")
    console.print(f"{escape(plan.model)}: {rows}, {plan.queries:,} queries.", highlight=False)
    console.print(_trusted(plan), highlight=False)
    console.print(table)
    lines = (
        ("Parameters tracked", f"{plan.parameters:,}"),
        ("Gradient cache", size(plan.gradient_bytes)),
        (f"Influence kept (--keep {keep})", size(plan.tensor_bytes)),
        ("Memory above the model", f"about {size(plan.memory_bytes)}"),
        ("Speed in the probe", f"{plan.rate:,.0f} rows a second, forward and backward"),
        ("Fine-tuning", duration(plan.training_seconds)),
        ("Gradients", duration(plan.gradient_seconds)),
        ("Estimators", duration(plan.product_seconds)),
        ("Calibration", duration(plan.calibration_seconds)),
        ("In all", f"about {duration(plan.seconds)}"),
    )
    summary = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for line in lines:
        summary.add_row(*line)
    console.print(summary)
    for note in plan.notes:
        console.print(f"Note: {escape(note)}", highlight=False)
    console.print("Next: the same options with undertow audit and --out RUN.", highlight=False)


def size(count: int | float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: int | float) -> str:
    """Seconds as a person would say them."""
    if seconds == 0:
        return "none"
    if seconds < 1:
        return "under a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
