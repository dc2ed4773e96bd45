import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from undertow.errors import DataError
from undertow.report import Arm, NDRCurve, ReportData, Stage, render, write_report

Build = Callable[..., ReportData]
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}`\x00\u202e"


class Page(HTMLParser):
    """Elements, attributes and text of a page, and whether its elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def hostile(data: ReportData) -> ReportData:
    harm = data.harm.assign(
        text=HOSTILE, label=HOSTILE, predicted_label=HOSTILE, suggested_label=HOSTILE, original_label=HOSTILE
    ).rename(columns={"harm_head": f"harm_{HOSTILE}"})
    return replace(
        data,
        model=f"{HOSTILE}\ud800",
        training_source=HOSTILE,
        classes=(HOSTILE, "b"),
        created=HOSTILE,
        verdict=HOSTILE,
        harm=harm.assign(text_pair=HOSTILE * 20),
        estimator=HOSTILE,
        layers=HOSTILE,
        aggregation=HOSTILE,
        curves=(replace(data.curves[0], name=HOSTILE),),
        arms=(replace(data.arms[0], name=HOSTILE, note=HOSTILE),),
        evaluated_on=HOSTILE,
        notes=(HOSTILE,),
        stages=(Stage(HOSTILE, 1.0, 1.0),),
        configuration={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        fingerprints={HOSTILE: HOSTILE},
        next_steps=(HOSTILE,),
    )


CASES = {
    "everything": {},
    "truth unknown": {"truth": False},
    "not retrained": {"arms": (), "evaluated_on": ""},
    "bare": {
        "truth": False,
        "arms": (),
        "notes": (),
        "stages": (),
        "next_steps": (),
        "configuration": {},
        "versions": {},
        "fingerprints": {},
    },
    "text pair": {"pair": True},
    "one flagged": {"flagged": 1},
    "none flagged": {"flagged": 0},
    "all flagged": {"flagged": 60},
    "one row": {"n": 1, "flagged": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_whole_and_fetches_nothing(build: Build, case: str) -> None:
    source = render(build(**CASES[case]))
    page = Page(source)
    assert page.open == []
    assert not page.all("link")
    assert not page.all("img")
    for _, attributes in page.elements:
        assert "src" not in attributes
        for name in ("href", "xlink:href", "action", "poster", "data"):
            assert attributes.get(name, "#").startswith("#")
        assert all("url(" not in value.replace("url(#", "") for value in attributes.values())
    for raw in page.raw.values():
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|WebSocket|import\(", raw)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for attributes in page.all("a")}
    assert targets <= set(ids)
    assert not re.search(r"\b(nan|inf|None|NaT|<NA>)\b", page.text)


def test_only_its_own_script_may_run(build: Build) -> None:
    page = Page(render(build()))
    digest = base64.b64encode(hashlib.sha256(page.raw["script"].encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_text_stays_text(build: Build) -> None:
    source = render(hostile(build()))
    page = Page(source)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 50
    assert "{{ 7*7 }}" in page.text
    assert "\x00" not in source
    source.encode("utf-8")


def test_tables_and_figures_are_described(build: Build) -> None:
    page = Page(render(build()))
    assert all("scope" in header for header in page.all("th"))
    figures = page.all("svg")
    assert len(figures) == len(page.all("figure")) == 4
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    strips = [span["aria-label"] for span in page.all("span") if span.get("class") == "heat"]
    assert len(strips) == 50
    assert all("embedding" in strip and "head" in strip for strip in strips)


def test_figures_follow_what_is_known(build: Build) -> None:
    def titles(**changes: object) -> list[str]:
        return re.findall(r'<figure class="figure"><h3>(.*?)</h3>', render(build(**changes)))

    assert titles(truth=False, arms=()) == ["Distribution of harm"]
    assert titles(truth=False) == ["Distribution of harm", "Accuracy after retraining"]
    assert "Where the signal sits" in titles()


def test_summary_says_what_was_measured(build: Build) -> None:
    data = build()
    text = Page(render(data)).text
    hits = int((data.harm["planted"] & data.harm["flagged"]).sum())
    assert f"{hits} of 12 planted rows flagged" in text
    assert "+8.0 points (+3.0 to +13.0 points, 95%): 80.0% as given" in text
    assert "NDR@10/20/30: 0.30 / 0.45 / 0.55" in text
    assert "4 Mar 2025, 05:06 UTC" in text
    assert "1 min 03 s" in text
    assert "Labels in doubt" in Page(render(build(truth=False))).text


def test_summary_says_what_is_left_out_of_what_is_flagged(build: Build) -> None:
    assert "5 of them are left out of the cleaned set" in render(build(flagged=12, removed=5))
    assert "left out of the cleaned set" not in render(build(flagged=12))
    assert "left out of the cleaned set" not in render(build(flagged=12, removed=5, remedy="relabelled"))


def test_rows_are_shown_worst_first(build: Build) -> None:
    data = build(n=200, flagged=20)
    source = render(data)
    shown = [int(row) for row in re.findall(r'class="num id" data-value="(\d+)"', source)]
    assert shown == data.harm.sort_values("rank")["row"].head(50).tolist()
    assert "20 of them are flagged" in source
    assert source.count('class="mark">flagged') == 20
    assert "none of them is flagged" in render(build(flagged=0))


def test_page_stays_small(build: Build) -> None:
    data = build(n=5000, flagged=500, pair=True)
    assert len(render(data).encode()) < 500_000
    data = build(pair=True)
    long = data.harm.assign(text='"&<' * 20_000, text_pair="é\n" * 20_000)
    source = render(replace(data, harm=long))
    assert len(source.encode()) < 2_000_000
    assert "more characters" in source


def test_missing_values_are_dashes(build: Build) -> None:
    data = build()
    harm = data.harm.assign(loss=np.nan, predicted_probability=np.nan, harm_head=np.nan, suggested_label=None)
    harm.loc[harm["rank"] == 1, "harm"] = np.nan
    harm["original_label"] = None
    empty = NDRCurve("audit", *[np.full(3, np.nan)] * 2, *[float("nan")] * 4)
    arm = Arm("as given", 10, *[float("nan")] * 3)
    stages = (Stage("train", float("nan"), float("inf")),)
    changed = replace(data, harm=harm, curves=(empty,), arms=(arm,), stages=stages)
    source = render(changed)
    assert not re.search(r"\b(nan|inf|None)\b", Page(source).text, re.IGNORECASE)
    assert not re.search(r"NaN|Infinity", source)
    no_harm = replace(data, harm=data.harm.assign(harm=np.nan))
    assert "Distribution of harm" not in render(no_harm)


def test_same_data_gives_same_page(build: Build) -> None:
    assert render(build()) == render(build())


def test_harm_table_is_checked(build: Build) -> None:
    data = build()
    with pytest.raises(DataError, match="lacks the columns flagged, loss"):
        render(replace(data, harm=data.harm.drop(columns=["loss", "flagged"])))
    with pytest.raises(DataError, match="no rows"):
        render(replace(data, harm=data.harm.head(0)))


def test_report_is_written_whole(build: Build, tmp_path: Path) -> None:
    data = build()
    path = tmp_path / "run" / "report.html"
    assert write_report(data, path) == path
    assert path.read_text(encoding="utf-8") == render(data)
    assert write_report(build(n=20), path) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_failed_write_leaves_nothing_behind(build: Build, tmp_path: Path) -> None:
    taken = tmp_path / "report.html"
    taken.mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(build(), taken)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
