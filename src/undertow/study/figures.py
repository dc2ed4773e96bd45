"""The figures of a study, each one self-contained SVG text, for each model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from undertow.report.figures import chart_of, figure_png, finite, short_name, svg_of
from undertow.report.profiles import heatmap
from undertow.report.theme import CURVE_COLOURS, LIGHT
from undertow.study import measures, ranks
from undertow.study.frames import Frames
from undertow.study.tables import Left, check_names, slug
from undertow.study.writing import write_file

_ROLES = ("flagged", "planted", *CURVE_COLOURS, "neutral")
# What tells lines and points apart once the colours begin again.
_DASHES = ([1, 0], [6, 3], [2, 2])
_SHAPES = ("circle", "square", "triangle-up")

Figures = dict[str, str]


def ndr_profile(study: Frames, times: int) -> Figures:
    """NDR@30 by layer group under the mean, a line an estimator, one figure a model."""
    found = measures.ndr_by_group(study, times=times)
    return _by_model(found, lambda part: _profile(part, "layers", "ndr30", "NDR@30", reference=0.3))


def win_profile(study: Frames, times: int) -> Figures:
    """Win rate by layer group under the mean, a line an estimator, one figure a model."""
    found = ranks.layer_ranks(study, times=times)
    if found.empty:
        return {}
    order = {name: place for place, name in enumerate(study.influence["layers"].unique())}
    ordered = found.sort_values("group", key=lambda groups: groups.map(lambda g: order.get(g, -1)), kind="stable")
    return _by_model(ordered, lambda part: _profile(part, "group", "win_rate", "win rate", reference=0.5))


def ndr_by_k(study: Frames, times: int) -> Figures:
    """NDR@30 by the k of vote, a line an estimator, one figure a model; nothing for a single k."""
    found = measures.ndr_by_k(study, times=times)
    if found.empty or found["k"].nunique() < 2:
        return {}
    return _by_model(found, _k_lines)


def agreement(study: Frames, _times: int) -> Figures:
    """Spearman correlation of the harm of layer groups as a heatmap, one figure a model and estimator."""
    means = study.agreement.groupby(["model", "estimator", "first", "second"], sort=False)["spearman"].mean()
    figures = {}
    for (model, estimator), part in means.reset_index().groupby(["model", "estimator"], sort=False):
        names = list(part["first"].unique())
        if len(names) > 1:
            square = part.pivot(index="first", columns="second", values="spearman").reindex(index=names, columns=names)
            figures[f"{_file(model)}-{_file(estimator)}"] = heatmap(square, "Spearman")
    return figures


def noise_rank_profile(study: Frames, times: int) -> Figures:
    """Normalised rank of noisy minus clean samples by layer group, a line an estimator, one figure a model."""
    found = measures.noise_ranks(study, times=times)
    title = "rank of noisy minus clean"
    return _by_model(found, lambda part: _profile(part, "layers", "difference", title, reference=0.0))


def scatter(study: Frames, _times: int) -> Figures:
    """Accuracy after retraining against NDR@30, a point a configuration and cell, one figure a model."""
    rows = study.retrained
    rows = rows[rows["ndr30"].notna() & (rows["kind"] == "influence")]
    return _by_model(rows, _points)


FIGURES: dict[str, tuple[Callable[[Frames, int], Figures], str]] = {
    "ndr-profile": (ndr_profile, "no noise was planted, or there is no mean aggregation"),
    "win-rate-profile": (win_profile, "fewer than two layer groups were measured in the same blocks"),
    "ndr-by-k": (ndr_by_k, "there is no vote with several k, or no noise was planted"),
    "agreement": (agreement, "fewer than two layer groups were measured"),
    "noise-rank-profile": (noise_rank_profile, "no noise was planted"),
    "accuracy-against-ndr30": (scatter, "nothing was retrained where noise was planted"),
}


def write_figures(
    study: Frames, out: Path, only: Sequence[str] = (), *, times: int = 1000
) -> tuple[list[Path], list[Left]]:
    """Write the figures as SVG and PNG.

    Returns:
        The files written, and what was left out with the reason.

    Raises:
        ConfigError: for an unknown name.
        RunFolderError: when a file cannot be written.
    """
    written, left = [], []
    for name in check_names(only, tuple(FIGURES), "figure"):
        draw, why = FIGURES[name]
        drawn = draw(study, times)
        if not drawn:
            left.append(Left(name, why))
        for what, svg in drawn.items():
            for path, content in ((out / f"{name}-{what}.svg", svg), (out / f"{name}-{what}.png", figure_png(svg))):
                write_file(content, path)
                written.append(path)
    return written, left


def _by_model(found: pd.DataFrame, draw: Callable[[pd.DataFrame], str]) -> Figures:
    if found.empty:
        return {}
    return {_file(model): draw(part) for model, part in found.groupby("model", sort=False)}


def _file(name: object) -> str:
    """A name as a part of a file name."""
    return slug("".join(c if c.isalnum() or c in "-._" else "-" for c in str(name)))


def _lines_of(part: pd.DataFrame) -> pd.Series:
    """What each line is: the estimator, with the noise where a model has several kinds or rates of it."""
    if "rate" not in part or len(part[["noise", "rate"]].drop_duplicates()) < 2:
        return part["estimator"].astype(str)
    return part["estimator"] + " " + part["noise"].astype(str) + " " + part["rate"].map("{:g}".format)


def _rows(part: pd.DataFrame, x: str, y: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The points, and the names of the lines that they are on."""
    named = _lines_of(part)
    names = list(dict.fromkeys(named))
    low, high = (part[f"{y}_{end}"] if f"{y}_{end}" in part else part[y] for end in ("low", "high"))
    points = zip(named, part[x].tolist(), part[y].tolist(), low.tolist(), high.tolist(), strict=True)
    rows = [
        {"name": short_name(name), "x": at, "y": finite(value), "low": finite(a), "high": finite(b)}
        for name, at, value, a, b in points
    ]
    return rows, [short_name(name) for name in names]


def _profile(part: pd.DataFrame, x: str, y: str, title: str, *, reference: float) -> str:
    import altair as alt

    rows, names = _rows(part, x, y)
    order = list(dict.fromkeys(str(row["x"]) for row in rows))
    axis = alt.Axis(labelAngle=0 if len(order) <= 7 else -40, grid=False)
    chart = _lines(rows, names, alt.X("x:N", sort=order, title="layer group", axis=axis), title)
    return svg_of(chart + _reference(reference), f"{title} by layer group, for each of: {', '.join(names)}.")


def _k_lines(part: pd.DataFrame) -> str:
    import altair as alt

    rows, names = _rows(part.sort_values("k"), "k", "ndr30")
    x = alt.X("x:Q", title="k of vote", axis=alt.Axis(grid=False, tickCount=6))
    return svg_of(_lines(rows, names, x, "NDR@30"), f"NDR@30 by the k of vote, for each of: {', '.join(names)}.")


def _lines(rows: list[dict[str, Any]], names: list[str], x: Any, title: str) -> Any:
    """Lines with their intervals."""
    import altair as alt

    colour = alt.Color("name:N", scale=_colours(names), legend=alt.Legend(symbolType="stroke", columns=3))
    dash = alt.StrokeDash("name:N", scale=_cycle(names, _DASHES), legend=None)
    scale = alt.Scale(zero=False, padding=12)
    y = alt.Y("y:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
    base = chart_of(rows)
    rules = base.mark_rule(opacity=0.4, strokeWidth=3).encode(
        x=x, y=alt.Y("low:Q", scale=scale, title=title), y2="high:Q"
    )
    return rules.encode(color=colour) + base.mark_line(point=True).encode(x=x, y=y, color=colour, strokeDash=dash)


def _colours(names: list[str]) -> Any:
    """The colours in turn; when they begin again, dashes or shapes differ."""
    import altair as alt

    return alt.Scale(domain=names, range=[LIGHT[_ROLES[i % len(_ROLES)]] for i in range(len(names))])


def _cycle(names: list[str], kinds: Sequence[Any]) -> Any:
    """One kind for as many names as there are colours, then the next."""
    import altair as alt

    return alt.Scale(domain=names, range=[kinds[i // len(_ROLES) % len(kinds)] for i in range(len(names))])


def _reference(value: float) -> Any:
    """A dashed line at what random order gets."""
    import altair as alt

    at = alt.Chart(alt.Data(values=[{"at": value}]))
    return at.mark_rule(color=LIGHT["ink"], strokeDash=[3, 3]).encode(y="at:Q")


def _points(part: pd.DataFrame) -> str:
    import altair as alt

    rows, names = _rows(part.drop(columns=["noise", "rate"]), "ndr30", "accuracy")
    scale = alt.Scale(zero=False, padding=8)
    axis = alt.Axis(format=".0%", tickCount=5)
    chart = (
        chart_of(rows)
        .mark_point(filled=True, size=45, opacity=0.6)
        .encode(
            x=alt.X("x:Q", title="NDR@30", scale=scale, axis=alt.Axis(tickCount=5)),
            y=alt.Y("y:Q", title="accuracy after retraining", scale=scale, axis=axis),
            color=alt.Color("name:N", scale=_colours(names), legend=alt.Legend(columns=3)),
            shape=alt.Shape("name:N", scale=_cycle(names, _SHAPES), legend=alt.Legend(columns=3)),
        )
    )
    return svg_of(chart, f"Accuracy after retraining against NDR@30, {len(rows)} points of: {', '.join(names)}.")
