"""The figures of ``undertow layers``."""

from pathlib import Path

import pandas as pd

from undertow.pipeline.layers import LayerProfile
from undertow.pipeline.written import write_page
from undertow.report.profiles import Drawn, figure_page, heatmap, profile_figure

PAGE = "layers.html"
_SIDES = "Where a projection has several tracked modules, their mean is drawn."


def write_layer_page(profile: LayerProfile, run: str | Path) -> Path:
    """Write ``layers.html``: measures by layer for each projection, and agreement between layers.

    Raises:
        RunFolderError: when it cannot be written.
    """
    path = Path(run) / PAGE
    title = f"What each layer sees: {profile.scoring.estimator}, {profile.scoring.aggregate}"
    write_page(figure_page(title, layer_figures(profile)), path)
    return path


def layer_figures(profile: LayerProfile) -> list[Drawn]:
    """The figures that the run has values for."""
    measures: dict[str, tuple[str, str, float | None]] = {
        "agreement": ("Agreement with all modules", "Spearman of the harm", None)
    }
    if profile.planted is not None:
        measures = {
            "noise_rank": ("Noise rank by layer", "mean normalised rank of planted rows", 0.5),
            "ndr30": ("NDR@30 by layer", "NDR@30", 0.3),
            **measures,
        }
    if profile.table["cancellation"].notna().any():
        measures["cancellation"] = ("Cancellation by layer", "cancellation", None)
    drawn = []
    for column, (title, measure, random) in measures.items():
        values = _by_projection(profile.table, column)
        if len(values):
            dashed = "" if random is None else " Dashed: what a random order gets."
            drawn.append(Drawn(title, profile_figure(values, measure, reference=random), f"{_SIDES}{dashed}"))
    if len(profile.between) > 1:
        square = heatmap(profile.between, "Spearman", colours=(min(0.0, float(profile.between.min().min())), 1.0))
        drawn.append(Drawn("Agreement between layers", square, "Spearman of the harm of each layer with each other."))
    return drawn


def _by_projection(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column over the modules of a layer and projection; columns layer, projection and value."""
    inside = table[(table["level"] == "module") & (table["layer"] >= 0)]
    finite = inside[inside[column].abs() < float("inf")]
    means = finite.groupby(["layer", "projection"], sort=True)[column].mean()
    return means.rename("value").reset_index()
