"""The report of a run: one HTML page that opens anywhere and needs no network."""

from undertow.report.figures import (
    arms_figure,
    figure_png,
    harm_histogram,
    layer_figure,
    ndr_figure,
)
from undertow.report.model import Arm, NDRCurve, ReportData, Stage
from undertow.report.page import render, write_report

__all__ = [
    "Arm",
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
