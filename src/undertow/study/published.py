"""The numbers of the paper, beside those of a study.

Source: Vitel & Chhabra, "First is Not Really Better Than Last: Evaluating Layer Choice and Aggregation Strategies in
Language Model Data Influence Estimation", arXiv 2511.04715. ``published.csv`` holds them as data, with layer groups
and estimators by the names they have here: att1 to att4 are the quarters of the attention layers, head is CL,
embedding is WE.
"""

from importlib.resources import files

import numpy as np
import pandas as pd

from undertow.report.text import MISSING, fixed
from undertow.study.frames import Frames
from undertow.study.measures import cancellation
from undertow.study.ranks import MEAN, aggregations, layer_ranks, places, proxies
from undertow.study.writing import Table

SOURCE = "Vitel & Chhabra, arXiv 2511.04715"
DIFFER = (
    "Models, tasks, sizes of data and software differ from those of the paper, so agreement is to be sought in the "
    "order of groups and in signs, not in digits."
)

# Texts by model and what a table is about.
_Side = dict[tuple[str, ...], str]


def published() -> pd.DataFrame:
    """The published numbers: measure, model, estimator, layers, aggregation, value; "" where one does not apply."""
    with files("undertow.study").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, dtype={"value": float})


def beside(study: Frames, *, times: int = 1000) -> list[Table]:
    """Published and measured values side by side, where the same group, estimator and aggregation was measured."""
    made = [
        Table(
            "layers",
            "Layer groups under the mean: statistical rank (win rate)",
            "The published win rates of a model lie below one half on average, so their ties or their opponents were "
            "counted otherwise than here, where the average is one half: compare their order.",
            _beside_ranks(study, times),
        ),
        Table(
            "proxies",
            "Spearman ρ with accuracy after filtering",
            "Measured: mean over blocks of ρ over layer groups. Vote is the one with k nearest to the paper's 0.3.",
            _beside_proxies(study, times),
        ),
        Table(
            "cancellation",
            "Cancellation by layer group: mean ± std (ρ with the outcome)",
            "Published: ρ with accuracy. Measured: over cells, with accuracy or, where the mean was "
            "not retrained, NDR@30.",
            _beside_cancellation(study, times),
        ),
        Table(
            "places",
            "Place of TracIn on the head among all, and the best win rate of any",
            "Among all estimators and layer groups under one aggregation; place 1 is the best.",
            _beside_places(study),
        ),
    ]
    return [table for table in made if len(table.frame)]


def _beside_ranks(study: Frames, times: int) -> pd.DataFrame:
    told = _wide(published(), ["statistical_rank", "win_rate"], ["estimator", "layers"])
    theirs: _Side = {key: f"{int(row['statistical_rank'])} ({fixed(row['win_rate'], 2)})" for key, row in told.items()}
    found = layer_ranks(study, times=times)
    ours: _Side = {
        (row["model"], row["estimator"], row["group"]): f"{row['statistical_rank']} ({fixed(row['win_rate'], 2)})"
        for row in found.to_dict("records")
    }
    return _side_by_side(theirs, ours, ["estimator", "layers"])


def _beside_proxies(study: Frames, times: int) -> pd.DataFrame:
    known = published()
    known = known[known["measure"].str.startswith("rho_")]
    keys = known[["model", "aggregation", "estimator", "measure"]].itertuples(index=False, name=None)
    theirs: _Side = {key: fixed(value, 1) for key, value in zip(keys, known["value"], strict=True)}
    roles = _roles(study)
    ours: _Side = {
        (row["model"], roles[row["aggregation"]], row["estimator"], f"rho_{row['proxy']}"): fixed(row["within"], 2)
        for row in proxies(study, times=times).to_dict("records")
        if row["aggregation"] in roles
    }
    return _side_by_side(theirs, ours, ["aggregation", "estimator", "measure"])


def _beside_cancellation(study: Frames, times: int) -> pd.DataFrame:
    told = _wide(published(), ["cancellation", "cancellation_std", "cancellation_rho"], ["layers"])
    theirs: _Side = {key: _spread(*(row.get(name, np.nan) for name in _PARTS)) for key, row in told.items()}
    found = cancellation(study, times=times)
    ours: _Side = {
        (row["model"], row["group"]): _spread(row["mean"], row["std"], row["rho"]) for row in found.to_dict("records")
    }
    return _side_by_side(theirs, ours, ["layers"])


_PARTS = ("cancellation", "cancellation_std", "cancellation_rho")


def _beside_places(study: Frames) -> pd.DataFrame:
    known = published()
    known = known[known["measure"].isin(["place", "best_win_rate"])]
    theirs: _Side = {
        (row["model"], row["measure"], row["aggregation"]): f"{row['value']:g}" for row in known.to_dict("records")
    }
    roles = _roles(study)
    ours: _Side = {}
    for row in places(study).to_dict("records"):
        if row["aggregation"] in roles:
            role = roles[row["aggregation"]]
            ours[row["model"], "place", role] = f"{row['place']} of {row['of']}"
            ours[row["model"], "best_win_rate", role] = fixed(row["best_win_rate"], 2)
    return _side_by_side(theirs, ours, ["measure", "aggregation"])


def _roles(study: Frames) -> dict[str, str]:
    """The aggregations of a study that stand for the published mean and vote."""
    rows = study.influence
    votes = rows[(rows["aggregation"] == "vote") & (rows["only"] == "all")].drop_duplicates("how")
    roles = {MEAN: MEAN} if MEAN in aggregations(study) else {}
    if len(votes):
        nearest = votes.iloc[int(np.argmin((votes["k"] - 0.3).abs().to_numpy()))]
        roles[str(nearest["how"])] = "vote"
    return roles


def _wide(known: pd.DataFrame, measures: list[str], keys: list[str]) -> dict[tuple[str, ...], dict[str, float]]:
    """Some measures by model and keys."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in known[known["measure"].isin(measures)].to_dict("records"):
        found.setdefault((row["model"], *(row[key] for key in keys)), {})[row["measure"]] = row["value"]
    return found


def _spread(mean: float, std: float, rho: float) -> str:
    told = f"{fixed(mean, 1)} ± {fixed(std, 1)}" if np.isfinite(std) else fixed(mean, 1)
    return f"{told} ({fixed(rho, 1)})" if np.isfinite(rho) else told


def _side_by_side(theirs: _Side, ours: _Side, names: list[str]) -> pd.DataFrame:
    """A row a key that both sides have for any model, a column a model, the published ones first.

    The keys of both are a model and the values of ``names``.
    """
    both = {key[1:] for key in theirs} & {key[1:] for key in ours}
    rows = [key for key in dict.fromkeys(key[1:] for key in theirs) if key in both]
    columns = {
        **{model: {key[1:]: text for key, text in theirs.items() if key[0] == model} for model in _models(theirs)},
        **{
            f"measured: {model}": {key[1:]: text for key, text in ours.items() if key[0] == model}
            for model in _models(ours)
        },
    }
    table = {name: [key[i] for key in rows] for i, name in enumerate(names)}
    return pd.DataFrame(table | {name: [told.get(key, MISSING) for key in rows] for name, told in columns.items()})


def _models(keys: _Side) -> list[str]:
    return list(dict.fromkeys(key[0] for key in keys))
