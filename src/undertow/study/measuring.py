"""What is measured of a cell once its influence is there: every choice of harm against the planted noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from undertow.errors import ConfigError
from undertow.influence.store import covered_groups
from undertow.metrics.agreement import agreement
from undertow.metrics.noise import auroc, noise_detection
from undertow.models.groups import select_modules
from undertow.pipeline.scorer import Scorer, Scoring
from undertow.study.cells import Cell

CANCELLATION = ("cancellation", "mean", "std", "median", "min", "max", "infinite")


@dataclass(frozen=True)
class Choice:
    """One way to order the rows of a cell: an influence aggregated, or a baseline, which ``estimator`` names."""

    kind: str
    estimator: str
    layers: str = ""
    aggregation: str = ""
    k: float | None = None
    only: str = ""

    @property
    def row(self) -> dict[str, object]:
        """Its columns in a table; k is NaN where there is none."""
        return {**vars(self), "k": np.nan if self.k is None else self.k}


def choices(cell: Cell, scorer: Scorer) -> dict[Choice, Scoring]:
    """Every estimator x layer group x aggregation x queries of a study that is defined on the model.

    Raises:
        ConfigError: when none is.
    """
    found: dict[Choice, Scoring] = {}
    study = cell.study
    for estimator in study.estimators:
        for layers, modules in _groups(cell, scorer, estimator).items():
            for aggregation in study.aggregations:
                for k in aggregation.choices:
                    for only in study.only:
                        choice = Choice("influence", estimator, layers, aggregation.name, k, only)
                        found[choice] = Scoring(estimator, tuple(modules), aggregation.name, k or 0.3, (only,))
    if not found:
        raise ConfigError(
            f"No estimator of the study is defined on any of its layers in {cell.model}. Choose other layers:, such "
            "as all, or embedding for tracin-we."
        )
    return found


def _groups(cell: Cell, scorer: Scorer, estimator: str) -> dict[str, list[int]]:
    """The modules of the study's layers that an estimator is defined on."""
    covered = scorer.influence["covered"].sel(estimator=estimator).values
    return covered_groups({name: select_modules(scorer.keys, name) for name in cell.study.layers}, covered)


def harms(cell: Cell, run: Path, scorer: Scorer) -> dict[Choice, Float[np.ndarray, " n"]]:
    """Harm of every training row by every choice and baseline."""
    asked = choices(cell, scorer)
    found = {choice: s.harm for choice, s in zip(asked, scorer.scores(list(asked.values())), strict=True)}
    table = pd.read_parquet(run / "harm.parquet")
    for name in dict.fromkeys(("loss", *cell.study.baselines)):
        column = "loss" if name == "loss" else f"baseline_{name}"
        found[Choice("baseline", name)] = table[column].to_numpy(np.float64)
    return found


def detection_rows(
    cell: Cell, found: dict[Choice, Float[np.ndarray, " n"]], planted: Bool[np.ndarray, " n"]
) -> pd.DataFrame:
    """One row a choice: NDR@10, 20, 30, AUC-NDR and AUROC; NaN where no noise was planted."""
    rows = []
    for choice, harm in found.items():
        measured = dict.fromkeys(("ndr10", "ndr20", "ndr30", "auc_ndr", "auroc"), np.nan)
        if planted.any() and not planted.all():
            curve = noise_detection(harm, planted)
            measured = {f"ndr{share}": curve.ndr(share / 100) for share in (10, 20, 30)}
            measured |= {"auc_ndr": curve.auc, "auroc": auroc(harm, planted)}
        rows.append({**cell.identity, **choice.row, **measured})
    return pd.DataFrame(rows)


def layer_rows(
    cell: Cell, run: Path, scorer: Scorer, planted: Bool[np.ndarray, " n"]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By estimator and layer group: noise rank and cancellation; and Spearman of the groups' harm with one another.

    The noise rank is the mean normalised rank, over modules, queries and noisy rows: 0 = most detrimental.
    """
    cancelled = _cancellation(run)
    layers, between = [], []
    for estimator in cell.study.estimators:
        groups = _groups(cell, scorer, estimator)
        if not groups:
            continue
        scored = scorer.scores([Scoring(estimator, tuple(modules), "rank") for modules in groups.values()])
        by_group = dict(zip(groups, (s.harm for s in scored), strict=True))
        queries = scorer.influence.sizes["query"]
        for name, harm in by_group.items():
            ranks = -harm / (len(groups[name]) * queries * max(len(harm) - 1, 1))
            noisy, clean = (float(ranks[m].mean()) if m.any() else np.nan for m in (planted, ~planted))
            layers.append(
                {**cell.identity, "estimator": estimator, "layers": name, "noise_rank": noisy, "clean_rank": clean}
                | cancelled.get(name, {})
            )
        between += _between(cell, estimator, by_group, planted)
    return pd.DataFrame(layers), pd.DataFrame(between)


def _between(
    cell: Cell, estimator: str, by_group: dict[str, np.ndarray], planted: Bool[np.ndarray, " n"]
) -> list[dict[str, object]]:
    everyone = agreement(by_group)
    noisy = agreement(by_group, rows=planted) if planted.sum() > 1 else everyone * np.nan
    return [
        {
            **cell.identity,
            "estimator": estimator,
            "first": a,
            "second": b,
            "spearman": everyone.at[a, b],
            "spearman_noisy": noisy.at[a, b],
        }
        for a in by_group
        for b in by_group
    ]


def _cancellation(run: Path) -> dict[str, dict[str, float]]:
    """Cancellation of each layer group, where it was measured."""
    file = run / "cancellation.parquet"
    if not file.is_file():
        return {}
    table = pd.read_parquet(file)
    groups = table[table["level"] == "group"].set_index("name")[list(CANCELLATION)].astype(np.float64)
    renamed = groups.rename(columns={c: f"cancellation_{c}" for c in CANCELLATION[1:-1]})
    return {str(name): {str(c): float(row[c]) for c in renamed.columns} for name, row in renamed.iterrows()}
