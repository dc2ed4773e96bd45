import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from undertow.report import (
    Arm,
    NDRCurve,
    arms_figure,
    figure_png,
    harm_histogram,
    layer_figure,
    ndr_figure,
)
from undertow.report.figures import histogram_range
from undertow.report.theme import DARK, LIGHT, css, vega_config

NAMES = ["audit", "<script>alert(1)</script>", "a\"b'c\\d&e", "x\x00\ud800y\nz", "a.b[0]", "datum.x", ""]
SVG = "{http://www.w3.org/2000/svg}"


def curve(name: str) -> NDRCurve:
    share = np.linspace(0, 1, 1001)
    return NDRCurve(name, share, np.sqrt(share), 0.1, 0.2, 0.3, 0.5)


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "g", "path", "rect", "line", "text", "tspan"),
    }
    assert "NaN" not in svg
    return root


def words(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_every_figure_is_well_formed_with_any_name() -> None:
    harm = np.random.default_rng(0).normal(size=300)
    for first, second in pairwise(NAMES):
        parsed(harm_histogram(harm, harm > 1, (first, second)))
    drawn = [
        ndr_figure([curve(name) for name in NAMES], 0.2),
        arms_figure([Arm(name, 10, 0.8, 0.7, 0.9) for name in NAMES]),
        layer_figure(dict.fromkeys(NAMES, 0.5)),
    ]
    for svg in drawn:
        assert "<script>alert(1)</script>" in words(parsed(svg))


@pytest.mark.parametrize(
    "harm",
    [
        np.zeros(20),
        np.array([3.0]),
        np.array([1e-9, 2e-9, 5e-9]),
        np.array([-1e12, 0.0, 1e12]),
        np.concatenate([np.random.default_rng(1).normal(size=1000), [1e6, -1e6]]),
        np.array([1.0, np.nextafter(1.0, 2.0)]),
    ],
)
def test_histogram_takes_any_range(harm: np.ndarray) -> None:
    for marked in (np.zeros(len(harm), dtype=bool), np.ones(len(harm), dtype=bool), harm >= harm.max()):
        parsed(harm_histogram(harm, marked, threshold=float(harm.max())))


def test_histogram_is_binned() -> None:
    harm = np.random.default_rng(2).standard_t(2, size=100_000)
    low, high = histogram_range(harm)
    assert harm.min() < low < -3
    assert 3 < high < harm.max()
    assert len(harm_histogram(harm, harm > 2)) < 40_000
    flat = np.linspace(0, 1, 50)
    assert histogram_range(flat) == (0.0, 1.0)


def test_cut_is_drawn_where_it_is_known() -> None:
    harm = np.linspace(0, 1, 50)
    assert "cut" in words(parsed(harm_histogram(harm, harm > 0.8, threshold=0.8)))
    assert "cut" not in words(parsed(harm_histogram(harm, harm > 0.8)))
    assert "cut" in words(parsed(ndr_figure([curve("audit")], 0.9)))
    assert "cut" not in words(parsed(ndr_figure([curve("audit")], 0.0)))


def test_arms_show_accuracy_in_the_order_given() -> None:
    arms = [Arm("oracle", 8, 0.9, 0.85, 0.95), Arm("as given", 10, 0.8, 0.75, 0.85)]
    shown = words(parsed(arms_figure(arms)))
    assert [word for word in shown if word in ("oracle", "as given")] == ["oracle", "as given"]
    assert {"90.0%", "80.0%"} <= set(shown)
    parsed(arms_figure([Arm("as given", 10, 1.0, 1.0, 1.0)]))


def test_layers_show_their_rate() -> None:
    assert {"att1", "0.46"} <= set(words(parsed(layer_figure({"att1": 0.456, "head": float("nan")}))))


def test_png_is_an_image() -> None:
    png = figure_png(layer_figure({"head": 0.5}))
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 1000


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read(palette: dict[str, str]) -> None:
    for ground in ("page", "surface"):
        for role in ("ink", "muted", "flagged-text", "planted-text"):
            assert contrast(palette[role], palette[ground]) >= 4.5, role
    for role in ("neutral", "flagged", "planted", "green", "purple", "ochre"):
        assert contrast(palette[role], palette["surface"]) >= 3, role


def test_every_colour_of_a_figure_has_a_dark_one() -> None:
    assert LIGHT.keys() == DARK.keys()
    svgs = [
        ndr_figure([curve(f"estimator {i}") for i in range(9)], 0.2),
        arms_figure([Arm("cleaned", 10, 0.8, 0.7, 0.9)]),
        harm_histogram(np.arange(9.0), np.arange(9) > 5, threshold=6.0),
        layer_figure({"head": 0.4}),
    ]
    known = {*LIGHT.values(), "none", "transparent"}
    for svg in svgs:
        for element in parsed(svg).iter():
            assert element.get("fill", "none") in known
            assert element.get("stroke", "none") in known
    assert all(f'[fill="{colour}"]' in css() for colour in LIGHT.values())
    assert vega_config()["font"] == "sans-serif"
