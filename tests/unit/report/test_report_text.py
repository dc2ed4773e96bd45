import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow.report import text
from undertow.report.rows import TEXT_LONG, passage


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (-0.0123456, "−0.0123"),
        (12.3456, "12.3"),
        (12345.6, "12,346"),
        (1.234e-7, "1.23e−7"),
        (1.234e9, "1.23e9"),
        (float("nan"), "–"),
        (float("-inf"), "–"),
    ],
)
def test_numbers(value: float, written: str) -> None:
    assert text.number(value) == written


def test_shares_and_differences() -> None:
    assert [text.percent(value) for value in (0.2, 0.0, 0.0002, 1.0)] == ["20.0%", "0.0%", "<0.1%", "100.0%"]
    assert text.percent(float("nan")) == "–"
    assert [text.points(value) for value in (0.054, -0.006, 0.0, -0.0001)] == ["+5.4", "−0.6", "0.0", "0.0"]
    assert text.points(0.76875 - 0.75625) == text.points(0.0125) == f"{1.25:+.1f}"


def test_times_and_memory() -> None:
    assert [text.duration(s) for s in (0.04, 59.94, 59.96, 3600.0, 3725.0)] == [
        *("0.0 s", "59.9 s", "1 min 00 s", "1 h 00 min", "1 h 02 min"),
    ]
    assert [text.memory(mb) for mb in (12.0, 1840.2)] == ["12 MB", "1.84 GB"]


def test_dates() -> None:
    assert text.date("2025-03-04T05:06:07+00:00") == "4 Mar 2025, 05:06 UTC"
    assert text.date("2025-03-04T05:06:07+02:00") == "4 Mar 2025, 05:06 UTC+0200"
    assert text.date("2025-03-04 05:06") == "4 Mar 2025, 05:06"
    assert text.date("yesterday") == "yesterday"


@pytest.mark.parametrize("value", [None, float("nan"), np.float64("nan"), pd.NA])
def test_absent_labels_are_dashes(value: object) -> None:
    assert text.label(value) == "–"


@given(st.text(), st.integers(5, 40))
def test_clipped_text_is_short_and_a_beginning(value: str, limit: int) -> None:
    clipped = text.clip(value, limit)
    assert len(clipped) <= limit
    assert "\n" not in clipped
    if clipped != (line := " ".join(value.split())):
        assert line.startswith(clipped.removesuffix("…").rstrip())
        assert clipped.endswith("…")


@given(st.text(st.characters(exclude_categories=())))
def test_clean_text_can_be_written(value: str) -> None:
    clean = text.clean(value)
    clean.encode("utf-8")
    assert len(clean) == len(value)


def test_long_texts_can_be_expanded() -> None:
    assert passage("short\n and  simple").full is None
    assert passage(None).short == "(empty)"
    long = passage("word " * 1000)
    assert long.short.endswith("…")
    assert long.full is not None
    assert len(long.full) <= TEXT_LONG
    assert long.cut_off == 5000 - TEXT_LONG
    assert passage("   " * 500 + "late").short == "late"
