"""The figures of ``undertow score``."""

from collections.abc import Sequence
from pathlib import Path

from undertow.metrics.noise import noise_detection, random_detection
from undertow.pipeline.compare_page import curve
from undertow.pipeline.score import ScoreTable
from undertow.pipeline.written import write_page
from undertow.report.figures import harm_histogram, ndr_figure
from undertow.report.profiles import Drawn, figure_page

# Curves that one figure can tell apart.
CURVES = 6


def write_score_page(tables: Sequence[ScoreTable]) -> Path:
    """Write a page beside the first table: how harm is distributed, and what planted noise each aggregation finds.

    Raises:
        RunFolderError: when it cannot be written.
    """
    path = tables[0].path.with_suffix(".html")
    write_page(figure_page("Harm, aggregated anew", score_figures(tables)), path)
    return path


def score_figures(tables: Sequence[ScoreTable]) -> list[Drawn]:
    """Curves where noise was planted, then one histogram a table."""
    drawn = [_curves(tables)] if "planted" in tables[0].table else []
    return [*drawn, *(_histogram(made) for made in tables)]


def _histogram(made: ScoreTable) -> Drawn:
    harm, flagged = made.scored.harm, made.table["flagged"].to_numpy(bool)
    threshold = float(harm[flagged].min()) if flagged.any() else None
    caption = f"Harm of all {len(harm):,} rows; {int(flagged.sum()):,} are flagged, the line is where they begin."
    return Drawn(made.path.stem, harm_histogram(harm, flagged, threshold=threshold), caption)


def _curves(tables: Sequence[ScoreTable]) -> Drawn:
    planted = tables[0].table["planted"].to_numpy(bool)
    curves = [curve(made.path.stem, noise_detection(made.scored.harm, planted)) for made in tables[:CURVES]]
    curves.append(curve("random", random_detection(len(planted), int(planted.sum()))))
    left = f" Of {len(tables)} aggregations, the first {CURVES}." if len(tables) > CURVES else ""
    caption = f"The share of the {int(planted.sum()):,} planted flips among the rows inspected.{left}"
    return Drawn("Planted noise found", ndr_figure(curves, tables[0].cut), caption)
