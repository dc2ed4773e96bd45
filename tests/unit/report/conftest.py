"""A builder of report data, small and synthetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from undertow.report import Arm, NDRCurve, ReportData, Stage

GROUPS = ("embedding", "att1", "att2", "head", "all")


def harm_table(
    n: int, flagged: int, truth: bool, pair: bool, removed: int | None = None, seed: int = 0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    planted = np.arange(n) % 5 == 0
    harm = rng.normal(0, 1, n) + 2 * planted
    rank = np.empty(n, dtype=int)
    rank[np.argsort(-harm)] = np.arange(1, n + 1)
    given = np.where(planted, "positive", "negative")
    table = pd.DataFrame(
        {
            "row": np.arange(n) + 1000,
            "text": [f"Review number {i} says that it was fine." for i in range(n)],
            "label": given,
            "predicted_label": "negative",
            "predicted_probability": rng.uniform(0.5, 1, n),
            "suggested_label": [None if i % 7 == 0 else "negative" for i in range(n)],
            "loss": rng.exponential(1, n),
            "harm": harm,
            "rank": rank,
            "flagged": rank <= flagged,
            "removed": rank <= (flagged if removed is None else removed),
        }
    )
    if pair:
        table["text_pair"] = [f"Second text {i}." for i in range(n)]
    for group in GROUPS:
        table[f"harm_{group}"] = rng.normal(0, 1, n) + planted
    if truth:
        table = table.assign(planted=planted, original_label="negative")
    return table


def curve(name: str) -> NDRCurve:
    share = np.linspace(0, 1, 301)
    return NDRCurve(name, share, np.sqrt(share), 0.3, 0.45, 0.55, 0.67)


@pytest.fixture
def build() -> Callable[..., ReportData]:
    def _build(
        n: int = 60,
        flagged: int = 12,
        truth: bool = True,
        pair: bool = False,
        removed: int | None = None,
        **changes: Any,
    ) -> ReportData:
        values: dict[str, Any] = {
            "model": "models/reviews",
            "training_source": "train.csv",
            "classes": ("negative", "positive"),
            "created": "2025-03-04T05:06:07+00:00",
            "verdict": "12 of 60 rows are flagged.",
            "harm": harm_table(n, flagged, truth, pair, removed),
            "estimator": "cosine",
            "layers": "all",
            "aggregation": "mean",
            "cut": flagged / n,
            "curves": tuple(curve(name) for name in ("audit", "loss", "random", "ideal")) if truth else (),
            "arms": (
                Arm("as given", n, 0.80, 0.77, 0.83),
                Arm("dropped", n - flagged, 0.88, 0.85, 0.91, 0.08, 0.03, 0.13, 12, "12 rows removed"),
            ),
            "remedy": "dropped",
            "evaluated_on": "Measured on the test split.",
            "notes": ("2 texts were cut at 128 tokens.",),
            "stages": (Stage("train", 61.0, 1500.0), Stage("gradients", 2.0, 900.0)),
            "configuration": {"epochs": "3"},
            "versions": {"python": "3.11"},
            "fingerprints": {"training": "abc123"},
            "next_steps": ("undertow export runs/1",),
        }
        return ReportData(**{**values, **changes})

    return _build
