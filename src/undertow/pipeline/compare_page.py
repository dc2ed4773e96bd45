"""The figures of ``undertow compare``."""

from pathlib import Path

import numpy as np
import pandas as pd

from undertow.metrics.noise import NoiseDetection, noise_detection, random_detection
from undertow.models.groups import PROFILE_GROUPS
from undertow.pipeline.compare import LOSS, Comparison
from undertow.pipeline.written import write_page
from undertow.report.figures import ndr_figure
from undertow.report.model import NDRCurve
from undertow.report.profiles import Drawn, figure_page, heatmap

PAGE = "compare.html"
# Curves drawn beside loss and random.
BEST = 3


def write_compare_page(found: Comparison, run: str | Path) -> Path:
    """Write ``compare.html``: a heatmap of estimator x layers for each aggregation, and curves of the best.

    Raises:
        RunFolderError: when it cannot be written.
    """
    path = Path(run) / PAGE
    write_page(figure_page("Estimators, layers and aggregations side by side", compare_figures(found)), path)
    return path


def compare_figures(found: Comparison) -> list[Drawn]:
    """The curves where noise was planted, then one heatmap an aggregation, in the same colours."""
    column, measure = ("agreement", "mean Spearman") if found.planted is None else ("auc", "AUC-NDR")
    influences = found.table[found.table["kind"] == "influence"]
    known = influences[column].dropna()
    ends = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    named = influences.assign(how=[choice(row) for row in influences[["aggregate", "k"]].itertuples(index=False)])
    drawn = [] if found.planted is None else [_curves(found)]
    for how, rows in named.groupby("how", sort=False):
        order: list[str] = sorted(rows["layers"].unique().tolist(), key=_place)
        square = rows.pivot(index="estimator", columns="layers", values=column)[order]
        title, caption = f"{measure}, aggregated by {how}", "The same colours in every figure; white: not defined."
        drawn.append(Drawn(title, heatmap(square, measure, colours=ends), caption))
    return drawn


def choice(row: tuple[str, float]) -> str:
    """An aggregation with its k where it has one."""
    how, k = row
    return how if np.isnan(k) else f"{how} k={k:g}"


def _place(group: str) -> tuple[int, str]:
    """Standard groups from the first layer to the last, then others by name."""
    known = group in PROFILE_GROUPS
    return (PROFILE_GROUPS.index(group) if known else len(PROFILE_GROUPS)), group


def _curves(found: Comparison) -> Drawn:
    assert found.planted is not None
    table = found.table
    best = table.index[table["kind"] == "influence"][:BEST]
    loss = table.index[(table["kind"] == "baseline") & (table["estimator"] == LOSS)][0]
    curves = [curve(_named(table.loc[i]), noise_detection(found.harms[i], found.planted)) for i in best]
    curves.append(curve(LOSS, noise_detection(found.harms[loss], found.planted)))
    curves.append(curve("random", random_detection(len(found.planted), int(found.planted.sum()))))
    caption = f"The {len(best)} with the highest AUC-NDR, chosen by the same noise that they are measured on."
    return Drawn("Planted noise found", ndr_figure(curves, 0.3), caption)


def _named(row: "pd.Series") -> str:
    return f"{row['estimator']} {row['layers']} {choice((row['aggregate'], row['k']))}"


def curve(name: str, found: NoiseDetection) -> NDRCurve:
    """A detection as figures take it."""
    rates = {f"ndr{share}": found.ndr(share / 100) for share in (10, 20, 30)}
    return NDRCurve(name, found.inspected, found.found, **rates, auc=found.auc)
