"""The sections of docs/results.md that studies answer open questions in: k, aggregation without k, layers, proxies.

    python benchmarks/study_tables.py --runs FOLDER --write docs/results.md

reads what `study.py` (and, for the section study-small, ``undertow experiment`` with the template) left in
FOLDER/NAME and writes a section for every study that is there. Nothing is computed again.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from common import table, write_section
from undertow.study.frames import CELL, Frames, mean_interval, read_frames

INTERVALS = 1000
BLOCK = ["noise", "rate"]


def value(values: pd.Series, digits: int = 3) -> str:
    """Mean with its interval over cells."""
    found = mean_interval(values, times=INTERVALS)
    if np.isnan(found.value):
        return ""
    return f"{found.value:.{digits}f}" + (
        "" if np.isnan(found.low) else f" ({found.low:.{digits}f} to {found.high:.{digits}f})"
    )


def noises(study: Frames) -> list[tuple[str, float]]:
    """The noises of a study, in the order they came."""
    pairs = study.results[BLOCK].drop_duplicates().itertuples(index=False, name=None)
    return [(str(kind), float(rate)) for kind, rate in pairs]


def of_noise(rows: pd.DataFrame, noise: tuple[str, float]) -> pd.DataFrame:
    """The rows of a noise."""
    return rows[(rows["noise"] == noise[0]) & np.isclose(rows["rate"].astype(float), noise[1])]


def by_aggregation(study: Frames, measure: str = "ndr30") -> str:
    """Mean over estimators, layer groups and cells, a row a noise and a column an aggregation; the best in bold."""
    rows = study.influence
    hows = sorted(rows["how"].unique(), key=lambda how: (not how.startswith("vote k"), how))
    lines = []
    for noise in noises(study):
        means = of_noise(rows, noise).groupby("how")[measure].mean()
        votes = [h for h in hows if h.startswith("vote k")]
        best = {max(votes, key=lambda h: means[h]), max(hows, key=lambda h: means[h])} if votes else {means.idxmax()}
        cells = [f"**{means[h]:.3f}**" if h in best else f"{means[h]:.3f}" for h in hows]
        lines.append((f"{noise[0]} {noise[1]:g}", *cells))
    return table(("noise", *hows), lines)


def by_layers(study: Frames, how: str = "rank", measure: str = "ndr30") -> str:
    """Mean over estimators and cells, a row a noise and a column a layer group; the best in bold."""
    rows = study.influence[study.influence["how"] == how]
    groups = list(rows["layers"].unique())
    lines = []
    for model in study.models:
        for noise in noises(study):
            means = of_noise(rows[rows["model"] == model], noise).groupby("layers")[measure].mean()
            cells = [f"**{means[g]:.3f}**" if means[g] == means.max() else f"{means[g]:.3f}" for g in groups]
            lines.append((f"{model}, {noise[0]} {noise[1]:g}", *cells))
    return table((f"{how}", *groups), lines)


def against_baselines(study: Frames, measure: str = "ndr30") -> str:
    """Baselines beside two fixed choices and the best of all in hindsight, a row a noise."""
    fixed = {"cosine, all, rank": ("cosine", "all", "rank"), "datainf, all, rank": ("datainf", "all", "rank")}
    influence, baselines = study.influence, study.kind("baseline")
    names = list(baselines["estimator"].unique())
    lines = []
    for model in study.models:
        for noise in noises(study):
            of_model = of_noise(influence[influence["model"] == model], noise)
            keys = ["estimator", "layers", "how"]
            means = of_model.groupby(keys)[measure].mean()
            told = of_noise(baselines[baselines["model"] == model], noise)
            cells = [value(told[told["estimator"] == name][measure]) for name in names]
            for choice in fixed.values():
                chosen = np.logical_and.reduce([of_model[k] == c for k, c in zip(keys, choice, strict=True)])
                cells.append(value(of_model[chosen][measure]))
            cells.append(f"{means.max():.3f} ({', '.join(means.idxmax())})")
            lines.append((f"{model}, {noise[0]} {noise[1]:g}", *cells))
    return table(("noise", *names, *fixed, "best in hindsight"), lines)


def accuracies(study: Frames) -> str:
    """Accuracy after training again: the controls, baselines, and each retrained choice by its mean."""
    lines = []
    for model in study.models:
        for task in study.results["task"].unique():
            rows = study.results[(study.results["model"] == model) & (study.results["task"] == task)]
            known = rows[rows["accuracy"].notna()]
            if known.empty:
                continue
            base = known[known["estimator"] == "noisy"].set_index("seed")["accuracy"]
            for keys, part in known.groupby(["kind", "estimator", "layers", "how"], dropna=False, sort=False):
                gain = part.set_index("seed")["accuracy"] - base
                name = ", ".join(str(k) for k in keys[1:] if k and not pd.isna(k))
                found = part["ndr30"].mean()
                shown = "" if np.isnan(found) else f"{found:.3f}"
                lines.append(
                    (part["accuracy"].mean(), (f"{model}, {task}: {name}", shown, value(part["accuracy"]), value(gain)))
                )
    ordered = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
    return table(("removed", "NDR@30", "accuracy", "gain over noisy"), ordered)


def proxy_table(study: Frames) -> str:
    """Spearman correlation, within each cell, of what needs no retraining with accuracy after it."""
    acted = study.retrained
    cancellation = study.layers.drop_duplicates([*CELL, "estimator", "layers"])[
        [*CELL, "estimator", "layers", "cancellation"]
    ]
    joined = acted.merge(cancellation, how="left", on=[*CELL, "estimator", "layers"])
    lines = []
    for model in study.models:
        rows = joined[joined["model"] == model]
        if rows.empty:
            continue
        for proxy in ("ndr30", "auc_ndr", "auroc", "cancellation"):
            found = []
            for _, part in rows.groupby(CELL):
                both = part[[proxy, "accuracy"]].replace([np.inf, -np.inf], np.nan).dropna()
                if len(both) > 2 and both[proxy].nunique() > 1:
                    found.append((float(spearmanr(both[proxy], both["accuracy"]).statistic), len(both)))
            if found:
                rhos = ", ".join(f"{rho:.2f}" for rho, _ in found)
                lines.append((f"{model}, {proxy}", rhos, ", ".join(str(n) for _, n in found)))
    return table(("proxy", "ρ with accuracy, a cell each", "choices"), lines)


def cost_table(study: Frames) -> str:
    """Mean seconds of each stage, and within influence of each method."""
    lines = []
    for (model, stage, method), part in study.costs.groupby(["model", "stage", "method"], sort=False):
        peak = part["peak_memory_mb"].max()
        lines.append(
            (
                f"{model}, {stage}{': ' + method if method else ''}",
                f"{part['seconds'].mean():.2f}",
                "" if np.isnan(peak) else f"{peak:,.0f}",
            )
        )
    return table(("stage", "seconds a cell", "peak memory, MB"), lines)


def summary(study: Frames) -> str:
    """What a study is made of."""
    cells = study.results[CELL].drop_duplicates()
    seconds = study.costs["seconds"][study.costs["method"] == ""].sum()
    return f"{len(cells)} cells, {seconds / 60:.0f} minutes on a 2-core CPU.\n"


SECTIONS: dict[str, tuple[Callable[[Frames], str], ...]] = {
    "small": (summary, against_baselines, by_layers, accuracies, cost_table),
    "noise": (summary, by_aggregation, by_layers, against_baselines),
    "encoder": (summary, accuracies, proxy_table, cost_table),
    "language-model": (summary, against_baselines, by_aggregation, by_layers, accuracies, proxy_table, cost_table),
}


def main() -> None:
    """Write the sections of the studies that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the studies")
    parser.add_argument("--write", type=Path, help="Markdown file whose sections study-NAME are replaced")
    asked = parser.parse_args()
    there = [name for name in SECTIONS if (asked.runs / name / "results.parquet").is_file()]
    if not there:
        sys.exit(f"Missing: {asked.runs} holds none of {', '.join(SECTIONS)}. Run study.py first.")
    for name in there:
        study = read_frames(asked.runs / name)
        text = "\n".join(make(study) for make in SECTIONS[name])
        print(f"## {name}\n\n{text}")
        if asked.write:
            write_section(asked.write, f"study-{name}", text)


if __name__ == "__main__":
    main()
