"""The figures of a report. Each takes plain values and returns one self-contained SVG text.

Rows are counted into bins and curves are thinned before they are drawn, so a figure stays small however many
rows were audited. Nothing is ever fetched: the converter is given no address it may read from.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from undertow.report.model import Arm, NDRCurve
from undertow.report.text import clean, clip, count, fixed, number, percent
from undertow.report.theme import CURVE_COLOURS, LIGHT, vega_config

WIDTH = 400
HEIGHT = 230
BINS = 40
CURVE_POINTS = 120
NAME_LIMIT = 28

_CURVE_ROLES = {"audit": "flagged", "loss": "green", "ideal": "planted", "random": "neutral"}
_CURVE_DASHES = {"ideal": [6, 4], "random": [2, 3]}
_ARM_ROLES = {"cleaned": "flagged", "oracle": "planted"}


def histogram_range(harm: Float[np.ndarray, " n"], threshold: float | None = None) -> tuple[float, float]:
    """The harm axis: all of the values, or their middle 99% and the threshold where a few lie far outside."""
    low, high = float(harm.min()), float(harm.max())
    inner_low, inner_high = (float(edge) for edge in np.quantile(harm, (0.005, 0.995)))
    if inner_high > inner_low and high - low > 1.5 * (inner_high - inner_low):
        return inner_low, max(inner_high, inner_high if threshold is None else threshold)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def harm_histogram(
    harm: Float[np.ndarray, " n"],
    marked: Bool[np.ndarray, " n"],
    names: tuple[str, str] = ("flagged", "kept"),
    role: str = "flagged",
    threshold: float | None = None,
) -> str:
    """How harm is distributed, with the marked rows coloured.

    Args:
        harm: harm of each row, finite.
        marked: rows to colour.
        names: what the marked rows and the others are called.
        role: palette entry of the marked rows.
        threshold: harm at which the flagged rows begin, drawn as a line.
    """
    import altair as alt

    low, high = histogram_range(harm, threshold)
    names = (short_name(names[0]), short_name(names[1]))
    values = [
        {**bar, "kind": name, "order": order}
        for order, (name, chosen) in enumerate(zip(names, (marked, ~marked), strict=True))
        for bar in _bars(harm[chosen], low, high)
    ]
    colours = alt.Scale(domain=list(names), range=[LIGHT[role], LIGHT["neutral"]])
    axis = alt.Axis(format=_axis_format(low, high), grid=False, tickCount=6)
    scale = alt.Scale(domain=[low, high], nice=False)
    bars = chart_of(values).mark_bar(stroke=LIGHT["surface"], strokeWidth=0.6)
    layers = bars.encode(
        x=alt.X("start:Q", bin="binned", axis=axis, scale=scale, title="harm (higher is worse)"),
        x2="end:Q",
        y=alt.Y("rows:Q", stack="zero", axis=alt.Axis(tickCount=4, domain=False), title="rows"),
        color=alt.Color("kind:N", scale=colours, legend=alt.Legend(symbolType="square")),
        order="order:Q",
    )
    shown = f"{count(int(marked.sum()))} {names[0]} and {count(int((~marked).sum()))} {names[1]} rows"
    chart = _with_cut(layers, threshold, low, high)
    return svg_of(chart, f"Histogram of harm from {number(low)} to {number(high)}: {shown}.")


def ndr_figure(curves: Sequence[NDRCurve], cut: float) -> str:
    """The share of planted noise found against the share of rows inspected, one line a curve."""
    import altair as alt

    names = [short_name(curve.name) for curve in curves]
    fixed_roles = {_CURVE_ROLES[name] for name in names if name in _CURVE_ROLES}
    free = iter([role for role in CURVE_COLOURS if role not in fixed_roles] * len(names))
    roles = [_CURVE_ROLES.get(name) or next(free) for name in names]
    values = [
        {"name": name, "share": float(share), "found": float(found), "strong": name == "audit"}
        for name, curve in reversed(list(zip(names, curves, strict=True)))  # the first is drawn on top
        for share, found in _thinned(curve)
    ]
    percent_axis = alt.Axis(format=".0%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    colours = alt.Scale(domain=names, range=[LIGHT[role] for role in roles])
    dashes = alt.Scale(domain=names, range=[_CURVE_DASHES.get(name, [1, 0]) for name in names])
    columns = 4 if max(map(len, names)) <= 14 else 2
    legend = alt.Legend(symbolType="stroke", symbolSize=350, symbolStrokeWidth=2.5, columns=columns)
    unit = alt.Scale(domain=[0, 1])
    lines = (
        chart_of(values)
        .mark_line(strokeJoin="round")
        .encode(
            x=alt.X("share:Q", axis=percent_axis, scale=unit, title="share of rows inspected, worst first"),
            y=alt.Y("found:Q", axis=percent_axis, scale=unit, title="planted noise found"),
            color=alt.Color("name:N", scale=colours, legend=legend, sort=names),
            strokeDash=alt.StrokeDash("name:N", scale=dashes, legend=legend, sort=names),
            strokeWidth=alt.condition("datum.strong", alt.value(3), alt.value(2)),
        )
    )
    ends = "; ".join(f"{name} {percent(curve.ndr30, 0)}" for name, curve in zip(names, curves, strict=True))
    return svg_of(_with_cut(lines, cut, 0.0, 1.0), f"Noise detection rate curves. Found at 30% inspected: {ends}.")


def arms_figure(arms: Sequence[Arm]) -> str:
    """The accuracy of each retraining arm as a dot on its 95% interval."""
    import altair as alt

    names = [short_name(arm.name) for arm in arms]
    ends = np.array([[arm.low, arm.high, arm.accuracy] for arm in arms], dtype=np.float64)
    ends = ends[np.isfinite(ends)] if np.isfinite(ends).any() else np.array([0.0, 1.0])
    margin = max(0.12 * float(np.ptp(ends)), 0.01)
    domain = [max(0.0, float(ends.min()) - margin), min(1.0, float(ends.max()) + margin)]
    values = [
        {
            "name": name,
            "accuracy": finite(arm.accuracy),
            "low": finite(arm.low),
            "high": finite(arm.high),
            "text": percent(arm.accuracy),
            "colour": LIGHT[_ARM_ROLES.get(name, "neutral")],
        }
        for name, arm in zip(names, arms, strict=True)
    ]
    axis = alt.Axis(format=".0%" if domain[1] - domain[0] > 0.04 else ".1%", tickCount=5)
    base = chart_of(values).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(domain=False, labelFontSize=13, grid=False)),
        color=alt.Color("colour:N", scale=None),
    )
    x = alt.X("low:Q", scale=alt.Scale(domain=domain, nice=False), axis=axis, title="accuracy, 95% interval")
    at = alt.X("accuracy:Q", scale=alt.Scale(domain=domain, nice=False))
    intervals = base.mark_rule(strokeWidth=4, strokeCap="round", opacity=0.55).encode(x=x, x2="high:Q")
    dots = base.mark_point(filled=True, size=110, opacity=1, stroke=LIGHT["surface"]).encode(x=at)
    texts = base.mark_text(dy=-14).encode(x=at, text="text:N", color=alt.value(LIGHT["ink"]))
    summary = "; ".join(f"{value['name']} {value['text']}" for value in values)
    return svg_of(intervals + dots + texts, f"Accuracy by retraining arm: {summary}.", step=46)


def layer_figure(ndr30: Mapping[str, float]) -> str:
    """NDR@30 of each layer group as a bar, against the 30% that a random order finds."""
    import altair as alt

    values = [
        {"group": clip(clean(group), NAME_LIMIT), "ndr": finite(value), "text": fixed(value, 2)}
        for group, value in ndr30.items()
    ]
    base = chart_of(values).encode(
        y=alt.Y("group:N", sort=None, title=None, axis=alt.Axis(domain=False, labelFontSize=13, grid=False))
    )
    axis = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f")
    x = alt.X("ndr:Q", scale=alt.Scale(domain=[0, 1]), axis=axis, title="NDR@30")
    bars = base.mark_bar(color=LIGHT["planted"], height={"band": 0.62}).encode(x=x)
    texts = base.mark_text(align="left", dx=6).encode(x=x, text="text:N")
    random = alt.Chart(alt.Data(values=[{"at": 0.3}])).mark_rule(color=LIGHT["ink"], strokeDash=[3, 3])
    summary = "; ".join(f"{value['group']} {value['text']}" for value in values)
    step = 32 if len(values) <= 8 else 22
    return svg_of(bars + texts + random.encode(x="at:Q"), f"NDR@30 by layer group: {summary}.", step=step)


def figure_png(svg: str, scale: float = 2.0) -> bytes:
    """A figure as a PNG image."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(svg, scale=scale))


def chart_of(values: list[dict[str, Any]]) -> Any:
    """A chart over these rows, which are held in it."""
    import altair as alt

    return alt.Chart(alt.Data(values=values))


def _bars(harm: Float[np.ndarray, " k"], low: float, high: float) -> list[dict[str, Any]]:
    """The bins that hold any rows; rows beyond an end are counted in the outermost bin."""
    edges = np.linspace(low, high, BINS + 1)
    counts = np.histogram(harm.clip(low, high), edges)[0]
    return [
        {"start": float(edges[i]), "end": float(edges[i + 1]), "rows": int(counts[i])} for i in np.flatnonzero(counts)
    ]


def _with_cut(chart: Any, at: float | None, low: float, high: float) -> Any:
    """The chart with a vertical line and the word "cut", where the cut is known and within the axis."""
    import altair as alt

    if at is None or not low < at <= high:
        return chart
    base = alt.Chart(alt.Data(values=[{"at": at, "text": "cut"}])).encode(x="at:Q")
    right = (at - low) < 0.85 * (high - low)
    side = {"align": "left" if right else "right", "dx": 5 if right else -5}
    text = base.mark_text(y=2, baseline="top", fontStyle="italic", color=LIGHT["muted"], **side)
    return chart + base.mark_rule(color=LIGHT["ink"], strokeDash=[4, 3]) + text.encode(text="text:N")


def svg_of(chart: Any, description: str, step: int | None = None) -> str:
    """A chart as one SVG text that says what it shows; with ``step`` as high as its rows take, so many pixels each."""
    import altair as alt
    import vl_convert

    sized = chart.properties(width=WIDTH, height=alt.Step(step) if step else HEIGHT)
    spec = {**sized.to_dict(), "config": vega_config()}
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    svg = str(vl_convert.vegalite_to_svg(spec, vl_version=version, allowed_base_urls=[]))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(clean(description))}" ', 1)


def short_name(name: str) -> str:
    """A name that fits a legend."""
    return clip(clean(name), NAME_LIMIT)


def finite(value: float) -> float | None:
    """The value, or None, which JSON knows, where it is not finite."""
    return float(value) if np.isfinite(value) else None


def _thinned(curve: NDRCurve) -> list[tuple[float, float]]:
    """At most ``CURVE_POINTS`` points of the curve, its ends among them."""
    points = np.stack([curve.share, curve.found], axis=1)
    points = points[np.isfinite(points).all(axis=1)]
    chosen = np.unique(np.linspace(0, len(points) - 1, min(CURVE_POINTS, len(points))).round().astype(int))
    return [(float(share), float(found)) for share, found in points[chosen]]


def _axis_format(low: float, high: float) -> str:
    largest = max(abs(low), abs(high))
    if largest >= 1e5:
        return "~s"  # 4.2M
    return "" if largest >= 0.01 else ".1~e"
