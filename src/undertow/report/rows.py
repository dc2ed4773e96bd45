"""What the tables about training rows show: the worst rows, and the flagged rows of each class."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from undertow.metrics.noise import noise_detection
from undertow.report.model import GROUP_PREFIX, ReportData
from undertow.report.text import MISSING, clip, fixed, label, missing, number, percent

WORST_ROWS = 50
CLASS_ROWS = 12
TEXT_SHORT = 170
TEXT_LONG = 2500
HEAT_STEPS = (0.5, 0.75, 0.9, 0.95, 0.99)
"""Harm percentiles at which a heat cell gets the next darker shade."""


@dataclass(frozen=True)
class Passage:
    """A user's text: its beginning, and the whole of it where it is longer."""

    short: str
    full: str | None
    cut_off: int


@dataclass(frozen=True)
class HeatCell:
    """The harm percentile of one row in one layer group; ``shade`` counts the ``HEAT_STEPS`` passed."""

    group: str
    shade: int
    percentile: str
    harm: str


@dataclass(frozen=True)
class WorstRow:
    """One line of the table of worst rows; ``was`` is the original label of a planted row.

    ``wrong`` is the probability that its label is wrong, empty where nothing was calibrated.
    """

    rank: int
    row: int
    texts: tuple[Passage, ...]
    label: str
    predicted_label: str
    probability: str
    probability_value: float
    suggested_label: str
    suggests_other: bool
    harm: str
    harm_value: float
    loss: str
    loss_value: float
    heat: tuple[HeatCell, ...]
    flagged: bool
    planted: bool
    was: str
    wrong: str = ""
    wrong_value: float = 0.0


@dataclass(frozen=True)
class ClassRow:
    """The flagged rows of one class."""

    label: str
    rows: int
    flagged: int
    share: str
    suggested: str


def passage(text: object) -> Passage:
    """A text as the table shows it: cut at ``TEXT_SHORT``, with up to ``TEXT_LONG`` characters to expand."""
    full = "" if missing(text) else str(text)
    short = clip(full, TEXT_SHORT)
    if not short:
        return Passage("(empty)", None, 0)
    same = short == " ".join(full.split())
    return Passage(short, None if same else full[:TEXT_LONG].strip(), max(0, len(full) - TEXT_LONG))


def worst_rows(data: ReportData) -> list[WorstRow]:
    """The ``WORST_ROWS`` rows of highest harm, worst first."""
    worst = data.harm.nsmallest(WORST_ROWS, "rank")
    heat = _heat(data, worst)
    return [
        _worst_row(line, cells, data.truth_known) for line, cells in zip(worst.to_dict("records"), heat, strict=True)
    ]


def class_rows(harm: pd.DataFrame) -> list[ClassRow]:
    """Flagged rows of each class, the ``CLASS_ROWS`` classes with most of them first."""
    found = []
    for name, rows in harm.groupby("label", sort=True):
        flagged = rows[rows["flagged"].astype(bool)]
        other = flagged["suggested_label"].dropna()
        usual = other[other != name].value_counts()
        text = f"{label(usual.index[0], 30)} ({usual.iloc[0]:,})" if len(usual) else MISSING
        share = percent(len(flagged) / len(rows))
        found.append(ClassRow(label(name), len(rows), len(flagged), share, text))
    worst = sorted(found, key=lambda row: -row.flagged)[:CLASS_ROWS]
    return [row for row in worst if row.flagged or len(found) <= CLASS_ROWS]


def group_ndr30(data: ReportData) -> dict[str, float]:
    """NDR@30 of the harm of each layer group alone; rows without a value come last."""
    planted = data.harm["planted"].to_numpy(dtype=bool)
    harms = {group: column(data.harm, GROUP_PREFIX + group) for group in data.groups}
    known = {group: np.where(np.isfinite(harm), harm, -np.inf) for group, harm in harms.items()}
    return {group: noise_detection(harm, planted).ndr(0.3) for group, harm in known.items()}


def column(table: pd.DataFrame, name: str) -> Float[np.ndarray, " n"]:
    """A column of numbers; missing values are NaN."""
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _heat(data: ReportData, worst: pd.DataFrame) -> list[tuple[HeatCell, ...]]:
    lines: list[list[HeatCell]] = [[] for _ in range(len(worst))]
    for group in data.groups:
        everyone = column(data.harm, GROUP_PREFIX + group)
        everyone = np.sort(everyone[np.isfinite(everyone)])
        for cells, value in zip(lines, column(worst, GROUP_PREFIX + group), strict=True):
            cells.append(_heat_cell(group, float(value), everyone))
    return [tuple(cells) for cells in lines]


def _heat_cell(group: str, value: float, everyone: Float[np.ndarray, " n"]) -> HeatCell:
    if not np.isfinite(value):
        return HeatCell(label(group, 40), 0, MISSING, MISSING)
    below = float(np.searchsorted(everyone, value, side="left")) / max(1, len(everyone) - 1)
    shade = sum(below >= step for step in HEAT_STEPS)
    return HeatCell(label(group, 40), shade, fixed(100 * below, 1), number(value))


def _worst_row(line: dict[Hashable, Any], heat: tuple[HeatCell, ...], truth_known: bool) -> WorstRow:
    texts = (line["text"], line["text_pair"]) if "text_pair" in line else (line["text"],)
    probability, harm, loss = (_float(line[name]) for name in ("predicted_probability", "harm", "loss"))
    planted = truth_known and bool(line["planted"])
    return WorstRow(
        rank=int(_float(line["rank"])),
        row=int(_float(line["row"])),
        texts=tuple(passage(text) for text in texts),
        label=label(line["label"]),
        predicted_label=label(line["predicted_label"]),
        probability=percent(probability, 0),
        probability_value=probability,
        suggested_label=label(line["suggested_label"]),
        suggests_other=label(line["suggested_label"]) not in (MISSING, label(line["label"])),
        harm=number(harm),
        harm_value=harm,
        loss=fixed(loss, 2),
        loss_value=loss,
        heat=heat,
        flagged=bool(line["flagged"]),
        planted=planted,
        was=label(line.get("original_label")) if planted else "",
        wrong=percent(_float(line["wrong"]), 0) if "wrong" in line else "",
        wrong_value=_float(line.get("wrong", 0.0)),
    )


def _float(value: Any) -> float:
    return float("nan") if missing(value) else float(value)
