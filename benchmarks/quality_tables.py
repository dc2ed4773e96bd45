"""The tables that benchmarks/quality.py makes of its measures.

``measures`` is a frame with a row for each cell (model, task, seed) and configuration (estimator, layers,
aggregation; the last two are empty for a baseline), and the columns NDR@10, NDR@20, NDR@30, AUC-NDR, AUROC, low and
high beside the facts of the cell.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from common import machine, table, write_section
from undertow.metrics.comparison import comparison_table, friedman, holm, wilcoxon_holm
from undertow.metrics.intervals import percentiles, resamples

GRID = ("estimator", "layers", "aggregation")
CELL = ("task", "seed")
TITLES = {"minilm": "MiniLM-L6", "smollm2": "SmolLM2-135M"}
MEASURES = ("NDR@10", "NDR@20", "NDR@30", "AUC-NDR", "AUROC")
MAIN = ("tracin", "cosine", "datainf")
SHOWN = (*MAIN, "less", "tracin-we", "tracin-we-k")
THREE = ("mean", "rank", "vote30")


def blocks(measures: pd.DataFrame, measure: str = "NDR@30") -> pd.DataFrame:
    """Cells x configurations of one model, for one measure; configurations that some cell lacks are left out."""
    return measures.pivot(index=list(CELL), columns=list(GRID), values=measure).dropna(axis=1)


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the cells of each configuration with its 95% bootstrap interval: value, low, high."""
    values = scores.to_numpy()
    drawn = np.array([values[rows].mean(0) for rows in resamples(len(values))])
    found = [percentiles(float(v), column) for v, column in zip(values.mean(0), drawn.T, strict=True)]
    return pd.DataFrame([(i.value, i.low, i.high) for i in found], scores.columns, ["value", "low", "high"])


def interval(row: pd.Series) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def named(configuration: tuple[str, str, str]) -> str:
    return ", ".join(part for part in configuration if part)


def is_baseline(scores: pd.DataFrame) -> np.ndarray:
    found: np.ndarray = scores.columns.get_level_values("aggregation") == ""
    return found


def settings_section(measures: pd.DataFrame) -> str:
    """What was run, and in every cell the accuracy and the configurations that have an interval there."""
    headlines = measures.dropna(subset=["low"])
    shown = list(dict.fromkeys(headlines[list(GRID)].itertuples(index=False, name=None)))
    rows = []
    for (model, task, seed), cell in measures.groupby(["model", "task", "seed"], sort=False):
        fact = cell.iloc[0]
        found = cell.set_index(list(GRID))
        rows.append(
            (
                f"{TITLES[model]}, {task}, {seed}",
                *(f"{fact[c]}" for c in ("samples", "selection", "queries", "epochs", "max_length")),
                f"{fact['accuracy']:.3f} ({fact['majority']:.3f})",
                *(interval(found.loc[c].rename({"NDR@30": "value"})) for c in shown),
                f"{fact['seconds'] / 60:.1f}",
            )
        )
    head = ("model, task, seed", "samples", "selection", "queries", "epochs", "tokens")
    text = (
        f"{machine()}. {measures['planted'].iloc[0] / measures['samples'].iloc[0]:.0%} of the training labels flipped "
        "uniformly at random; LoRA of rank 4 on query and value. Queries: accuracy of the model on them, in brackets "
        "the share of their larger class. NDR@30 with its 95% interval over the samples; random order: 0.300. "
        "RTE's validation rows both select the checkpoint and serve as queries. Every configuration, with intervals "
        "and by task, is in [quality.csv](results/quality.csv).\n\n"
    )
    return text + table((*head, "queries right", *(named(c) for c in shown), "minutes"), rows)


def baselines_section(model: str, measures: pd.DataFrame) -> str:
    """Every baseline of a model: means over the cells, and NDR@30 by task."""
    scores = blocks(measures)
    own = scores.loc[:, is_baseline(scores)]
    over = means(own).sort_values("value", ascending=False)
    auc = blocks(measures, "AUC-NDR").mean()
    by_task = own.groupby(level="task", sort=False).mean()
    rows = [
        (named(c), interval(r), f"{auc[c]:.3f}", *(f"{by_task.loc[t, c]:.3f}" for t in by_task.index))
        for c, r in over.iterrows()
    ]
    head = ("baseline", "NDR@30", "AUC-NDR", *by_task.index)
    return f"{titled(model, scores)}\n\n{table(head, rows)}"


def titled(model: str, scores: pd.DataFrame) -> str:
    tasks = scores.index.get_level_values("task").unique()
    return f"**{TITLES[model]}**, {len(scores)} cells ({', '.join(tasks)})"


def best_section(model: str, measures: pd.DataFrame, count: int = 15) -> str:
    """The best configurations over all cells, and the best of each task beside the best baseline and the default."""
    scores = blocks(measures)
    twice = scores.columns.get_level_values("estimator") == "tracin-we"  # tracin on the embeddings, by another name
    own, baselines = scores.loc[:, ~is_baseline(scores) & ~twice], scores.loc[:, is_baseline(scores)]
    over, auc = means(own).nlargest(count, "value"), means(blocks(measures, "AUC-NDR"))
    first = table(
        ("configuration", "NDR@30", "AUC-NDR"),
        [(named(c), interval(r), interval(auc.loc[c])) for c, r in over.iterrows()],
    )
    tasks = own.groupby(level="task", sort=False).mean()
    others = baselines.groupby(level="task", sort=False).mean()
    default = ("cosine", "all", "rank")
    rows = [
        (
            f"{t}: {named(best := tasks.loc[t].idxmax())}",
            f"{tasks.loc[t, best]:.3f}",
            f"{tasks.loc[t, over.index[0]]:.3f}",
            f"{tasks.loc[t, default]:.3f}",
            f"{others.loc[t, ('loss', '', '')]:.3f}",
            f"{others.loc[t].max():.3f} ({others.loc[t].idxmax()[0]})",
        )
        for t in tasks.index
    ]
    head = ("best of a task", "NDR@30", "best over all", named(default), "loss", "best baseline")
    return (
        f"{titled(model, scores)}. The best {count} of {own.shape[1]:,}, so their means are optimistic; intervals are "
        f"over the cells.\n\n{first}\n{table(head, rows)}"
    )


def grid_section(model: str, measures: pd.DataFrame) -> str:
    """Estimator x layer group for three aggregations."""
    scores = blocks(measures)
    over = means(scores)
    pairs = [(e, g) for e, g in dict.fromkeys((e, g) for e, g, a in scores.columns if a == "mean") if e in SHOWN]
    pairs.sort(key=lambda p: SHOWN.index(p[0]))
    rows = [(f"{e}, {g}", *(interval(over.loc[(e, g, a)]) for a in THREE)) for e, g in pairs]
    return f"{titled(model, scores)}. Mean NDR@30 with its interval over the cells.\n\n{table(('', *THREE), rows)}"


def aggregations_section(model: str, measures: pd.DataFrame) -> str:
    """Every aggregation against Rank on the same estimators and groups, and Vote against Mean group by group."""
    scores = blocks(measures)
    scores = scores.loc[:, scores.columns.get_level_values("estimator").isin(MAIN)]
    found = against_rank(scores)
    rows = [
        (
            *(str(n), str(int(r["pairs"])), f"{r['value']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})"),
            *(f"{r['wins']:.2f}", f"{r['p']:.3f}" if r["p"] >= 0.001 else "<0.001"),
        )
        for n, r in found.iterrows()
    ]
    head = ("aggregation", "pairs", "NDR@30 minus that of rank", "win rate", "p (Wilcoxon, Holm)")
    return (
        f"{titled(model, scores)}. Mean difference over the pairs of {', '.join(MAIN)} and a layer group; interval and "
        "test over the cells, whose mean differences are the observations. Win rate: share of pairs and cells in which "
        "it beats rank, ties half. `-c`: only queries that the model predicts correctly.\n\n"
        f"{table(head, rows)}\n{vote_table(scores)}"
    )


def against_rank(scores: pd.DataFrame) -> pd.DataFrame:
    """By aggregation, best first: value, low, high, pairs, wins and p of its difference from Rank."""
    found = {}
    for name in dict.fromkeys(scores.columns.get_level_values("aggregation")):
        if name == "rank":
            continue
        own = scores.xs(name, axis=1, level="aggregation")
        rank = scores.xs("rank", axis=1, level="aggregation")[own.columns]
        both = pd.DataFrame({name: own.mean(axis=1), "rank": rank.mean(axis=1)})
        apart = means(both[[name]].sub(both["rank"], axis=0)).iloc[0]
        wins = (own > rank).to_numpy().mean() + (own == rank).to_numpy().mean() / 2
        found[name] = {**apart, "pairs": own.shape[1], "wins": wins, "p": wilcoxon_holm(both).iloc[0, 1]}
    frame = pd.DataFrame(found).T
    return frame.assign(p=holm(frame["p"].to_numpy(np.float64))).sort_values("value", ascending=False)


def vote_table(scores: pd.DataFrame) -> str:
    """Vote (k = 30%) minus Mean by layer group and estimator, with the share of the cells in which it is better."""
    columns = dict.fromkeys((e, g) for e, g, a in scores.columns if a == "vote30")
    groups = list(dict.fromkeys(g for _, g in columns))
    rows = []
    for group in groups:
        told = []
        for estimator in MAIN:
            apart = scores[estimator, group, "vote30"] - scores[estimator, group, "mean"]
            won = (apart > 0).mean() + (apart == 0).mean() / 2
            told.append(f"{apart.mean():+.3f} ({won:.0%})")
        rows.append((group, *told))
    return "Vote (k = 30%) minus Mean, and the share of the cells in which it is better:\n\n" + table(("", *MAIN), rows)


def layers_section(model: str, measures: pd.DataFrame) -> str:
    """Average rank and win rate of the layer groups by estimator, over the three aggregations' mean."""
    scores = blocks(measures)
    kept = scores.loc[:, scores.columns.get_level_values("aggregation").isin(THREE)]
    groups = kept.T.groupby(level=["estimator", "layers"], sort=False).mean().T
    found, tests = {}, []
    for estimator in (*MAIN, "less"):
        own = groups[estimator]
        if estimator == "tracin":  # as the paper compares them
            own = own.join(groups[["tracin-we-k"]].droplevel("layers", axis=1))
        found[estimator] = comparison_table(own)
        tests.append(f"{estimator} p = {friedman(own).p_value:.2g}")
    order = pd.DataFrame({e: t["average_rank"] for e, t in found.items()}).mean(axis=1).sort_values().index
    rows = [(str(g), *(placed(found[e], str(g)) for e in found)) for g in order]
    return (
        f"{titled(model, scores)}. Statistical rank, in brackets average rank and win rate, of each layer group by "
        f"NDR@30, the mean of {', '.join(THREE)}. Groups that Wilcoxon's test (Holm, 5%) does not tell apart from the "
        f"best of a rank share it. Are all alike (Friedman)? {'; '.join(tests)}.\n\n{table(('', *found), rows)}"
    )


def placed(compared: pd.DataFrame, group: str) -> str:
    if group not in compared.index:
        return ""
    row = compared.loc[group]
    return f"{row['statistical_rank']:.0f} ({row['average_rank']:.1f}, {row['win_rate']:.2f})"


def full_grid(measures: pd.DataFrame) -> pd.DataFrame:
    """Every configuration and baseline of every model: means over the cells, intervals, and NDR@30 by task."""
    frames = []
    for model, own in measures.groupby("model", sort=False):
        scores = blocks(own).sort_index(axis=1)
        frame = pd.DataFrame({"cells": len(scores)}, index=scores.columns)
        for measure in MEASURES:
            found = means(blocks(own, measure)[scores.columns])
            frame[[measure, f"{measure} low", f"{measure} high"]] = found
        by_task = scores.groupby(level="task", sort=False).mean().T.add_prefix("NDR@30 ")
        frames.append(frame.join(by_task).reset_index().assign(model=TITLES[str(model)]))
    grid = pd.concat(frames, ignore_index=True)
    return grid[["model", *(c for c in grid.columns if c != "model")]].round(4)


def write_tables(measures: pd.DataFrame, file: Path | None) -> None:
    """Print every section, and put them into a Markdown file with the whole grid beside it."""
    made = {"settings": settings_section(measures)}
    per_model = {
        "baselines": baselines_section,
        "best": best_section,
        "grid": grid_section,
        "aggregations": aggregations_section,
        "layers": layers_section,
    }
    for name, section in per_model.items():
        made[name] = "\n".join(section(str(m), own) for m, own in measures.groupby("model", sort=False))
    for name, text in made.items():
        print(f"\n== {name}\n\n{text}")
        if file:
            write_section(file, f"quality-{name}", text)
    if file:
        grid = file.parent / "results" / "quality.csv"
        grid.parent.mkdir(exist_ok=True)
        full_grid(measures).to_csv(grid, index=False)
        print(f"wrote {grid}")
