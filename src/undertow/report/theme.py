"""The colours and type of a report, for the page and its figures alike.

One meaning a colour: what the audit decided is vermilion, what the truth says is blue, the rest is grey. The
hues are those of Okabe and Ito, which stay apart for colour-blind readers; the dark values are lighter tones
of the same hues.
"""

from typing import Any

LIGHT = {
    "page": "#f6f7f9",
    "surface": "#ffffff",
    "ink": "#1b2026",
    "muted": "#56606b",
    "line": "#dde2e7",
    "neutral": "#8793a0",
    "flagged": "#d55e00",
    "planted": "#0072b2",
    "green": "#00805e",
    "purple": "#a8447f",
    "ochre": "#94700a",
    "flagged-text": "#a84300",
    "planted-text": "#00629b",
}
DARK = {
    "page": "#0f1318",
    "surface": "#171d24",
    "ink": "#e7eaee",
    "muted": "#9ea9b5",
    "line": "#2d3640",
    "neutral": "#7c8895",
    "flagged": "#f28a3d",
    "planted": "#56b4e9",
    "green": "#35b892",
    "purple": "#d98bbb",
    "ochre": "#d6ad3c",
    "flagged-text": "#ffa868",
    "planted-text": "#7cc7f2",
}

CURVE_COLOURS = ("green", "purple", "ochre", "ink")
"""Roles for the curves that have no fixed colour, in turn."""

FONT = "sans-serif"
"""Generic, so that a figure renders anywhere; the page replaces it by its own."""

FONT_SIZE = 13


def css() -> str:
    """The palette as CSS variables, and the rules that recolour the figures in a dark page on a screen."""
    recolour = [
        f'.figure svg [{attribute}="{LIGHT[role]}"]{{{attribute}:{DARK[role]}}}'
        for role in LIGHT
        for attribute in ("fill", "stroke")
    ]
    light, dark = (_variables(palette) for palette in (LIGHT, DARK))
    return f"{light}\n@media screen and (prefers-color-scheme: dark){{\n{dark}\n{''.join(recolour)}\n}}"


def _variables(palette: dict[str, str]) -> str:
    return f":root{{{''.join(f'--{role}:{colour};' for role, colour in palette.items())}}}"


def vega_config() -> dict[str, Any]:
    """Settings all figures share, in the terms of Vega-Lite."""
    label = {"labelFont": FONT, "labelFontSize": FONT_SIZE - 1, "labelColor": LIGHT["muted"]}
    title = {"titleFont": FONT, "titleFontSize": FONT_SIZE, "titleColor": LIGHT["ink"]}
    return {
        "background": LIGHT["surface"],
        "font": FONT,
        "padding": {"left": 14, "right": 10, "top": 6, "bottom": 6},
        "view": {"stroke": None},
        "axis": {
            **label,
            **title,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelPadding": 6,
            "labelLimit": 150,
            "domainColor": LIGHT["neutral"],
            "gridColor": LIGHT["line"],
            "ticks": False,
        },
        "legend": {
            **label,
            "labelFontSize": FONT_SIZE,
            "labelColor": LIGHT["ink"],
            "labelLimit": 150,
            "title": None,
            "orient": "top",
            "symbolSize": 120,
            "columnPadding": 18,
            "offset": 10,
        },
        "text": {"font": FONT, "fontSize": FONT_SIZE, "color": LIGHT["ink"]},
    }
