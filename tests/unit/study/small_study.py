"""A small study whose values are told by rule."""

import numpy as np
import pandas as pd

from undertow.study.frames import CELL, Frames

GROUPS = ("embedding", "att1", "head")
SEEDS = (0, 1, 2, 3)


def result(seed: int, kind: str, estimator: str, **told: object) -> dict[str, object]:
    """A row of results with nothing but what is told."""
    empty = dict.fromkeys(
        ("k", "ndr10", "ndr20", "ndr30", "auc_ndr", "auroc", "cut", "accuracy", "f1", "matthews"), np.nan
    )
    cell = dict(zip(CELL, ("small", "sst2", "uniform", 0.2, seed), strict=True))
    return {
        **cell,
        "kind": kind,
        "estimator": estimator,
        "layers": "",
        "aggregation": "",
        "only": "all",
        **empty,
        **told,
    }


def ndr(group: str, how: str, seed: int) -> float:
    """att1 over embedding over head under the mean; vote adds 0.25 to the head alone. Seeds add 0.01 each."""
    base = {"embedding": 0.6, "att1": 0.7, "head": 0.5}[group]
    return base + 0.01 * seed + (0.25 if how == "vote" and group == "head" else 0.0)


def results(*, retrained: bool) -> pd.DataFrame:
    rows = []
    for seed in SEEDS:
        for group in GROUPS:
            for how, k in (("mean", np.nan), ("vote", 0.3)):
                found = ndr(group, how, seed)
                noise = {"ndr10": found - 0.3, "ndr20": found - 0.1, "ndr30": found, "auc_ndr": found, "auroc": found}
                row = {"layers": group, "aggregation": how, "k": k, **noise}
                after = {"cut": 0.3, "accuracy": found + 0.2, "f1": found, "matthews": found} if retrained else {}
                rows.append(result(seed, "influence", "tracin", **row, **after))
        rows.append(result(seed, "baseline", "loss", ndr10=0.2, ndr20=0.4, ndr30=0.55, auc_ndr=0.8, auroc=0.8))
        if retrained:
            for name, cut, value in (("noisy", 0.0, 0.7), ("oracle", 0.2, 0.95), ("random", 0.3, 0.65)):
                told = {"cut": cut, "accuracy": value, "f1": value, "matthews": value}
                rows.append(result(seed, "control", name, **told))
    return pd.DataFrame(rows)


def tables(*, retrained: bool) -> dict[str, pd.DataFrame]:
    """The four frames of the study."""
    cells = [dict(zip(CELL, ("small", "sst2", "uniform", 0.2, seed), strict=True)) for seed in SEEDS]
    spread = {"embedding": 2.0, "att1": 3.0, "head": 1.0}
    layers = [
        {**cell, "estimator": "tracin", "layers": group, "noise_rank": 0.3, "clean_rank": 0.5}
        | {"cancellation": spread[group] + cell["seed"]}
        for cell in cells
        for group in GROUPS
    ]
    between = [
        {**cell, "estimator": "tracin", "first": a, "second": b, "spearman": 1.0 if a == b else 0.4}
        | {"spearman_noisy": 1.0 if a == b else 0.2}
        for cell in cells
        for a in GROUPS
        for b in GROUPS
    ]
    costs = [
        {**cell, "stage": stage, "method": method, "seconds": seconds + cell["seed"]}
        | {"peak_memory_mb": np.nan if method else 100.0 * (1 + cell["seed"])}
        for cell in cells
        for stage, method, seconds in (("fine-tune", "", 10.0), ("influence", "", 2.0), ("influence", "tracin", 1.0))
    ]
    frames = {"layers": layers, "agreement": between, "costs": costs}
    return {"results": results(retrained=retrained), **{name: pd.DataFrame(rows) for name, rows in frames.items()}}


def study(*, retrained: bool = True) -> Frames:
    return Frames.of(**tables(retrained=retrained))
