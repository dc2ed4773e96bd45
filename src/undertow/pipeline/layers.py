"""What each layer of a run sees: every module, layer and layer group on its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from undertow.aggregation.queries import query_weights
from undertow.influence.store import covered_groups, deciding_modules
from undertow.metrics.agreement import agreement
from undertow.metrics.layers import by_group, noise_ranks, normalised_ranks
from undertow.metrics.noise import noise_detection
from undertow.models.groups import GROUPS, available_groups
from undertow.models.keys import ModuleKey
from undertow.pipeline.cancellation import FILE as CANCELLATION
from undertow.pipeline.scorer import Scorer, Scoring, stored_queries
from undertow.pipeline.written import planted_rows, read_harm, write_table
from undertow.progress import Reporter, Silent

TABLE = "layers.parquet"
NOISE_COLUMNS = ("noise_rank", "clean_rank", "ndr30", "auc")
_ALL = "all"


@dataclass(frozen=True)
class LayerProfile:
    """What every part of a model sees, as `layer_profile` measures it.

    Attributes:
        table: one row a group, layer and module. Columns: level (group, layer, module), name, layer (-1 where a part
            is not of one layer), projection and side (empty but for modules), modules (how many it holds);
            noise_rank and clean_rank (mean normalised rank of planted and of other rows, 0 = most detrimental),
            ndr30 and auc (NDR@30 and AUC-NDR of its harm), all NaN where no noise was planted; cancellation; and
            agreement (Spearman of its harm with that of all modules).
        between: Spearman of the harm of every layer with every other, a square frame.
        scoring: estimator and aggregation.
        planted: number of planted rows; None where no noise was planted.
        notes: what is missing, and why.
    """

    table: pd.DataFrame
    between: pd.DataFrame
    scoring: Scoring
    planted: int | None
    notes: tuple[str, ...]


def layer_profile(
    run: str | Path, scoring: Scoring | None = None, *, memory: int | None = None, reporter: Reporter | None = None
) -> LayerProfile:
    """Measure what each module, layer and layer group of a run sees, and write ``layers.parquet`` to it.

    Args:
        run: the run folder.
        scoring: estimator, aggregation and queries; its layers and weights of modules are not looked at.
        memory: bytes to stay within; half of what is free unless given.
        reporter: shows progress.

    Raises:
        RunFolderError: when the folder is no finished run.
        ConfigError: when the tensor was not kept, or for an unknown name.
    """
    folder, asked = Path(run), scoring or Scoring()
    scorer = Scorer.of_run(folder, memory=memory, reporter=reporter)
    planted = planted_rows(read_harm(folder, scorer.influence))
    asked = _plain(asked, asked.estimator or scorer.estimators[0])
    parts = _parts(scorer, asked)
    wanted = [_of(asked, positions) for positions in parts["positions"]]
    harms = [found.harm for found in scorer.scores(wanted)]
    table = parts.drop(columns="positions")
    if planted is None:
        table = table.assign(**dict.fromkeys(NOISE_COLUMNS, np.nan))
    else:
        ranks = _module_ranks(scorer, asked, sorted({m for ms in parts["positions"] for m in ms}), reporter)
        table = table.assign(**_noise(ranks, parts["positions"].tolist(), harms, planted))
    cancellation, notes = _cancellation(folder, table)
    table["cancellation"] = cancellation
    table["agreement"] = [_spearman(harm, harms[0]) for harm in harms]
    write_table(table, folder / TABLE)
    layers = {str(r.layer): harms[i] for i, r in enumerate(table.itertuples()) if r.level == "layer"}
    between = agreement(layers) if layers else pd.DataFrame()
    return LayerProfile(table, between, asked, None if planted is None else int(planted.sum()), notes)


def _plain(asked: Scoring, estimator: str) -> Scoring:
    return Scoring(estimator, _ALL, asked.aggregate, asked.k, asked.only, asked.weigh, asked.trim)


def _of(asked: Scoring, positions: Sequence[int]) -> Scoring:
    return Scoring(asked.estimator, tuple(positions), asked.aggregate, asked.k, asked.only, asked.weigh, asked.trim)


def _parts(scorer: Scorer, asked: Scoring) -> pd.DataFrame:
    """Groups, layers and modules that the estimator is defined on, with the positions of their modules.

    The first row is what decides an audit with all layers. A group with the modules of one before it is left out.
    """
    scorer.modules(asked)  # refuses an estimator that is not there
    covered = scorer.influence["covered"].sel(estimator=asked.estimator).values
    keys = scorer.keys
    held = covered_groups(available_groups(keys, tuple(GROUPS)), covered)
    groups = {name: tuple(positions) for name, positions in held.items()}
    groups[_ALL] = tuple(deciding_modules(keys, covered, _ALL))
    groups = {_ALL: groups.pop(_ALL), **groups}
    distinct = {positions: name for name, positions in reversed(groups.items())}
    rows = [_part("group", name, positions) for name, positions in groups.items() if distinct[positions] == name]
    numbers = sorted({k.layer for k in keys if k.layer is not None})
    layers = {i: [m for m, key in enumerate(keys) if key.layer == i] for i in numbers}
    rows += [_part("layer", f"layer {i}", ms, layer=i) for i, ms in covered_groups(layers, covered).items()]
    rows += [_of_module(keys[m], m) for m in np.flatnonzero(covered).tolist()]
    return pd.DataFrame(rows)


def _part(level: str, name: str, positions: Sequence[int], layer: int = -1) -> dict[str, object]:
    told = {"level": level, "name": name, "layer": layer, "projection": "", "side": ""}
    return {**told, "modules": len(positions), "positions": tuple(positions)}


def _of_module(key: ModuleKey, position: int) -> dict[str, object]:
    part = _part("module", key.name, (position,), -1 if key.layer is None else key.layer)
    return {**part, "projection": key.projection, "side": key.side}


def _module_ranks(scorer: Scorer, asked: Scoring, modules: Sequence[int], reporter: Reporter | None) -> pd.DataFrame:
    """Mean normalised rank of each sample over the queries that count for it, [n x modules], columns = positions."""
    values = scorer.influence["influence"].sel(estimator=asked.estimator)
    labels = scorer.influence["sample_label"].values if "sample_label" in scorer.influence else None
    weights = query_weights(stored_queries(scorer.influence), labels, values.sizes["sample"], asked.only)
    counted = weights.whole > 0
    ranks = {}
    with (reporter or Silent()).track("ranks of the modules", len(modules)) as advance:
        for m in modules:
            ranks[m] = _ranks_of(values[m], counted, weights.sample_class)
            advance(1)
    return pd.DataFrame(ranks)


def _ranks_of(block: xr.DataArray, counted: np.ndarray, sample_class: np.ndarray) -> Float[np.ndarray, " sample"]:
    values = block.values
    found = np.empty(values.shape[1])
    for c, queries in enumerate(counted):
        mine = sample_class == c
        found[mine] = normalised_ranks(values[queries])[mine]
    return found


def _noise(
    ranks: pd.DataFrame, parts: Sequence[Sequence[int]], harms: Sequence[np.ndarray], noisy: np.ndarray
) -> dict[str, list[float]]:
    """The columns of `NOISE_COLUMNS`, one value a part."""
    column = {int(m): i for i, m in enumerate(ranks.columns.tolist())}
    of_parts = by_group(ranks, {str(i): [column[m] for m in ms] for i, ms in enumerate(parts)})
    found = noise_ranks(of_parts, noisy)
    curves = [noise_detection(harm, noisy) for harm in harms]
    rates = [curve.ndr(0.3) for curve in curves], [curve.auc for curve in curves]
    return dict(zip(NOISE_COLUMNS, (found["noisy"].tolist(), found["clean"].tolist(), *rates), strict=True))


def _cancellation(folder: Path, table: pd.DataFrame) -> tuple[list[float], tuple[str, ...]]:
    """Cancellation of each row where the run measured it, and what is to be said where it did not."""
    path = folder / CANCELLATION
    if not path.is_file():
        note = f"cancellation is missing: the run has no {CANCELLATION} (--cancellation none)."
        return [np.nan] * len(table), (note,)
    measured = pd.read_parquet(path)
    known = measured.set_index(["level", "name"])["cancellation"]
    values = known.reindex(pd.MultiIndex.from_frame(table[["level", "name"]])).tolist()
    left_out = int((measured.loc[measured["level"] == "module", "left_out"] > 0).sum())
    reasons = sorted({why for why in measured["why"] if why})
    notes = ["cancellation is measured for modules and some groups, not for single layers."]
    if left_out:
        notes.append(f"cancellation leaves out {left_out} modules ({', '.join(reasons)}).")
    return values, tuple(notes)


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(agreement({"one": one, "other": other}).to_numpy()[0, 1])
