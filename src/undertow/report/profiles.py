"""The figures of ``undertow layers`` and ``undertow compare``, and the page that holds some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from undertow.report import theme
from undertow.report.figures import chart_of, finite, short_name, svg_of
from undertow.report.text import clean, fixed

# Past so many rows or columns the numbers in a heatmap would overlap.
_NUMBERED = 14


@dataclass(frozen=True)
class Drawn:
    """A figure with its heading and the sentence below it."""

    title: str
    svg: str
    caption: str


def profile_figure(values: pd.DataFrame, measure: str, *, reference: float | None = None) -> str:
    """A measure by layer, one line a projection.

    Args:
        values: columns layer, projection and value.
        measure: what the values are called on the axis.
        reference: what random order gets, drawn as a dashed line.
    """
    import altair as alt

    names = [str(name) for name in values["projection"].unique()]
    numbers = values["layer"].astype(int).tolist()
    rows: list[dict[str, Any]] = [
        {"layer": layer, "projection": short_name(str(projection)), "value": finite(value)}
        for layer, projection, value in zip(numbers, values["projection"], values["value"].tolist(), strict=True)
    ]
    roles = ("flagged", "planted", *theme.CURVE_COLOURS, "neutral")
    colours = alt.Scale(domain=[short_name(n) for n in names], range=[theme.LIGHT[r] for r in roles])
    layers = sorted(set(numbers))
    step = max(1, -(-len(layers) // 12))
    x = alt.X("layer:Q", title="layer", axis=alt.Axis(format="d", values=layers[::step], grid=False))
    y = alt.Y("value:Q", title=measure, scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=5))
    colour = alt.Color("projection:N", scale=colours, legend=alt.Legend(symbolType="stroke", columns=4))
    lines = chart_of(rows).mark_line(point=True).encode(x=x, y=y, color=colour)
    if reference is not None:
        at = alt.Chart(alt.Data(values=[{"at": reference}]))
        lines = lines + at.mark_rule(color=theme.LIGHT["ink"], strokeDash=[3, 3]).encode(y="at:Q")
    return svg_of(lines, f"{measure} by layer, for each of: {', '.join(names)}.")


def heatmap(values: pd.DataFrame, measure: str, *, colours: tuple[float, float] | None = None) -> str:
    """A frame of numbers as coloured cells; darker is higher, and an empty cell is not defined.

    Args:
        values: rows and columns in the order they are drawn in.
        measure: what the numbers are.
        colours: values of the lightest and the darkest colour; the least and the greatest unless given.
    """
    import altair as alt

    numbers = values.to_numpy(np.float64)
    known = numbers[np.isfinite(numbers)]
    low, high = colours or ((float(known.min()), float(known.max())) if len(known) else (0.0, 1.0))
    rows, columns = ([short_name(str(name)) for name in names] for names in (values.index, values.columns))
    cells = [
        {
            "row": rows[i],
            "column": columns[j],
            "value": finite(v),
            "text": fixed(v, 2),
            "dark": bool(v > (low + high) / 2),
        }
        for (i, j), v in np.ndenumerate(numbers)
    ]
    plain = alt.Axis(domain=False, labelAngle=0, grid=False, labelOverlap=True)
    turned = alt.Axis(domain=False, labelAngle=0 if len(columns) <= 6 else -40, grid=False, labelOverlap=True)
    base = chart_of(cells).encode(
        x=alt.X("column:N", sort=columns, title=None, axis=turned), y=alt.Y("row:N", sort=rows, title=None, axis=plain)
    )
    ends = [theme.LIGHT["page"], theme.LIGHT["planted"]]
    scale = alt.Scale(domain=[low, high], range=ends, clamp=True)
    legend = alt.Legend(title=measure, gradientLength=200, tickCount=3, format=".2f")
    chart = base.mark_rect(stroke=theme.LIGHT["surface"]).encode(color=alt.Color("value:Q", scale=scale, legend=legend))
    if max(len(rows), len(columns)) <= _NUMBERED:
        ink = alt.condition("datum.dark", alt.value(theme.LIGHT["surface"]), alt.value(theme.LIGHT["ink"]))
        chart = chart + base.mark_text(fontSize=11).encode(text="text:N", color=ink)
    step = 26 if len(rows) <= _NUMBERED else 12
    return svg_of(chart, f"{measure}: {len(rows)} rows by {len(columns)} columns.", step=step)


def figure_page(title: str, figures: Sequence[Drawn]) -> str:
    """Some figures as one HTML page that fetches nothing."""
    shown = "\n".join(
        f'<figure class="figure"><h2>{escape(clean(f.title))}</h2>{Markup(f.svg)}'
        f"<figcaption>{escape(clean(f.caption))}</figcaption></figure>"
        for f in figures
    )
    rules = (
        "body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--page);color:var(--ink);"
        "font:1rem/1.5 system-ui,sans-serif}figure{margin:0 0 2.5rem}figure svg{max-width:100%;height:auto}"
        "h1{font-size:1.5rem}h2{font-size:1.1rem}figcaption{color:var(--muted)}"
    )
    name = escape(clean(title))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{name}</title>'
        f"<style>{theme.css()}\n{rules}</style></head>\n<body><h1>{name}</h1>\n{shown}\n</body></html>\n"
    )
