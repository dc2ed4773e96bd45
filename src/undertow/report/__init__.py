"""The report of a run: one HTML page that opens anywhere and needs no network.

What is public is loaded when it is first used: whoever only writes a number as the report does waits for no figures.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.report.figures import (
        arms_figure,
        figure_png,
        harm_histogram,
        layer_figure,
        ndr_figure,
    )
    from undertow.report.model import Arm, ControlsView, Judged, NDRCurve, ReportData, Stage
    from undertow.report.page import render, write_report

__all__ = [
    "Arm",
    "ControlsView",
    "Judged",
    "NDRCurve",
    "ReportData",
    "Stage",
    "arms_figure",
    "figure_png",
    "harm_histogram",
    "layer_figure",
    "ndr_figure",
    "render",
    "write_report",
]

_WHERE = {
    **dict.fromkeys(("Arm", "ControlsView", "Judged", "NDRCurve", "ReportData", "Stage"), "model"),
    **dict.fromkeys(("arms_figure", "figure_png", "harm_histogram", "layer_figure", "ndr_figure"), "figures"),
    **dict.fromkeys(("render", "write_report"), "page"),
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"undertow.report.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'undertow.report' has no attribute {name!r}")
