"""Puts the parts of a report together into one page that needs nothing else."""

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from undertow.errors import DataError
from undertow.report import figures, rows, summary, text, theme
from undertow.report.model import HARM_COLUMNS, ReportData


@dataclass(frozen=True)
class Figure:
    """A figure with its heading, the sentence below it, and the name of the table beside it, if any."""

    title: str
    svg: Markup
    caption: str
    table: str = ""


def render(data: ReportData) -> str:
    """The report as one HTML page: styles, script and figures are inside it, and it fetches nothing.

    Raises:
        DataError: the harm table is empty or lacks a column.
    """
    _check(data)
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    worst = rows.worst_rows(data)
    template = _environment().get_template("report.html.j2")
    return template.render(
        data=data,
        created=text.date(data.created),
        n=len(data.harm),
        class_list=summary.class_list(data.classes),
        cards=summary.cards(data),
        settings=summary.settings(data),
        scores=summary.judged_table(data.controls.judged) if data.controls else [],
        sources=summary.source_table(data.controls.sources) if data.controls else [],
        transitions=summary.transition_table(data.controls.transitions) if data.controls else [],
        figures=list(_figures(data)),
        classes=rows.class_rows(data.harm),
        class_count=data.harm["label"].nunique(),
        curves=summary.curve_table(data),
        arms=summary.arm_table(data.arms),
        worst=worst,
        flagged_shown=sum(row.flagged for row in worst),
        heat_steps=[f"{100 * step:g}" for step in rows.HEAT_STEPS],
        stages=summary.stage_table(data),
        words=summary.words(data),
        style=Markup(theme.css() + "\n" + _asset("report.css")),
        script=Markup(script),
        script_digest=digest,
    )


def write_report(data: ReportData, path: Path) -> Path:
    """Writes the page to ``path``, whole or not at all, and returns the path."""
    page = render(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _check(data: ReportData) -> None:
    missing = [name for name in HARM_COLUMNS if name not in data.harm.columns]
    if missing:
        raise DataError(
            f"The harm table lacks the columns {', '.join(missing)}. A report needs "
            f"{', '.join(HARM_COLUMNS)}. Run the audit again to get a whole table."
        )
    if data.harm.empty:
        raise DataError("The harm table holds no rows, so there is nothing to report. Audit one row or more.")


def _figures(data: ReportData) -> Iterator[Figure]:
    yield from _harm_figure(data)
    if data.curves:
        svg = figures.ndr_figure(data.curves, data.cut)
        caption = (
            "How much of the planted noise is found as more rows are inspected, worst first. "
            "The higher the line rises at the left, the less there is to read."
        )
        yield Figure("Finding the planted noise", Markup(svg), caption, "curves")
    if data.arms:
        caption = f"{data.evaluated_on} Bars are 95% intervals.".strip()
        yield Figure("Accuracy after retraining", Markup(figures.arms_figure(data.arms)), caption, "arms")
    if data.truth_known and data.groups:
        svg = figures.layer_figure(rows.group_ndr30(data))
        caption = (
            "Share of the planted noise among the worst 30% of rows, by the harm of each layer group alone. "
            "The dashed line is what a random order finds."
        )
        yield Figure("Where the signal sits", Markup(svg), caption)


def _harm_figure(data: ReportData) -> Iterator[Figure]:
    everyone = rows.column(data.harm, "harm")
    finite = np.isfinite(everyone)
    if not finite.any():
        return
    harm, flagged = everyone[finite], data.harm["flagged"].to_numpy(dtype=bool)[finite]
    parted = flagged.any() and not flagged.all() and harm[flagged].min() >= harm[~flagged].max()
    threshold = float(harm[flagged].min()) if parted else None
    if data.truth_known:
        planted = data.harm["planted"].to_numpy(dtype=bool)[finite]
        svg = figures.harm_histogram(harm, planted, ("planted", "not planted"), "planted", threshold)
    else:
        svg = figures.harm_histogram(harm, flagged, threshold=threshold)
    low, high = figures.histogram_range(harm, threshold)
    beyond = int(((harm < low) | (harm > high)).sum())
    caption = "Rows by harm. Those at the right of the cut are flagged." if parted else "Rows by harm."
    if beyond:
        caption += f" The outermost bars also hold {text.count(beyond)} rows beyond the axis."
    yield Figure("Distribution of harm", Markup(svg), caption, "classes")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("undertow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return resources.files("undertow.report").joinpath("templates", name).read_text(encoding="utf-8")
