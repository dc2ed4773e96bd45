"""Tables that average over the cells of a study: noise detection, layers, filtering and cost."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from undertow.metrics.intervals import bootstrap
from undertow.metrics.proxies import spearman
from undertow.study.frames import BLOCK, CELL, Frames, mean_interval, with_interval
from undertow.study.ranks import MEAN

CONDITION = ["model", "noise", "rate"]
NOISE = ["ndr10", "ndr20", "ndr30", "auc_ndr"]
QUALITY = ["accuracy", "f1", "matthews"]


def cancellation(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Cancellation of each layer group, and its Spearman correlation over cells with the outcome of the group.

    The outcome is that of the mean aggregation, averaged over estimators. Infinite values are left out and counted.
    """
    known = study.layers.drop_duplicates([*CELL, "layers"])
    known = known[known["cancellation"].notna()]
    rows: list[dict[str, Any]] = []
    for model, of_model in known.groupby("model", sort=False):
        judged = ((rows[rows["how"] == MEAN], name) for rows, name in study.outcomes(str(model)))
        scored, outcome = next(((r, name) for r, name in judged if len(r)), (study.influence[:0], "ndr30"))
        means = scored.groupby([*BLOCK, "layers"])[outcome].mean().rename("outcome")
        for group, part in of_model.groupby("layers", sort=False):
            finite = part[np.isfinite(part["cancellation"].astype(float))]
            pairs = finite.join(means, on=[*BLOCK, "layers"])
            values = finite["cancellation"]
            rows.append(
                {
                    **{"model": model, "group": group, "cells": len(finite), "infinite": len(part) - len(finite)},
                    **with_interval("mean", mean_interval(values, times=times)),
                    "std": float(values.std()) if len(values) > 1 else np.nan,
                    **_correlation(pairs[["cancellation", "outcome"]].dropna(), times),
                    "outcome": outcome,
                }
            )
    return pd.DataFrame(rows)


def _correlation(pairs: pd.DataFrame, times: int) -> dict[str, float]:
    if len(pairs) < 3:
        return dict.fromkeys(("rho", "rho_low", "rho_high"), np.nan)
    a, b = pairs.to_numpy(np.float64).T
    return with_interval("rho", bootstrap(lambda rows: spearman(a[rows], b[rows]), len(a), times=times))


def ndr_by_group(study: Frames, how: str = MEAN, *, times: int = 1000) -> pd.DataFrame:
    """Noise detection of each estimator and layer group, over cells."""
    rows = _with_noise(study.influence)
    return _means(rows[rows["how"] == how], [*CONDITION, "estimator", "layers"], NOISE, times)


def ndr_by_k(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Noise detection of vote by its k: the mean over layer groups of each cell, over cells."""
    rows = _with_noise(study.influence)
    votes = rows[(rows["aggregation"] == "vote") & (rows["only"] == "all")]
    keys = [*CELL, "estimator", "k"]
    return _means(votes.groupby(keys, sort=False)[NOISE].mean().reset_index(), [*CONDITION, *keys[5:]], NOISE, times)


def ndr_best(study: Frames, *, best: int = 5, times: int = 1000) -> pd.DataFrame:
    """Noise detection of the ``best`` configurations of each condition by NDR@30, and of every baseline, best first."""
    tables = []
    influence, baselines = (_with_noise(study.kind(kind)) for kind in ("influence", "baseline"))
    for condition, part in _parts(pd.concat([influence, baselines]), CONDITION):
        means = part[part["kind"] == "influence"].groupby(["estimator", "layers", "how"])["ndr30"].mean()
        chosen = set(means.nlargest(best).index)
        kept = part[_among(part, ["estimator", "layers", "how"], chosen) | (part["kind"] == "baseline").to_numpy()]
        found = _means(kept, ["kind", "estimator", "layers", "how"], NOISE, times)
        found = found.sort_values("ndr30", ascending=False, kind="stable", ignore_index=True)
        tables.append(_prefixed(found, condition))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def noise_ranks(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Mean normalised rank of noisy and clean samples by layer group, 0 = most detrimental, over cells."""
    known = study.layers[study.layers["noise_rank"].notna() & study.layers["clean_rank"].notna()]
    gaps = known.assign(difference=known["noise_rank"] - known["clean_rank"])
    return _means(gaps, [*CONDITION, "estimator", "layers"], ["noise_rank", "clean_rank", "difference"], times)


def group_agreement(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Spearman correlation of the harm of pairs of layer groups, each pair once, over cells."""
    places = {name: place for place, name in enumerate(study.agreement["first"].unique())}
    first, second = (study.agreement[name].map(places) for name in ("first", "second"))
    once = study.agreement[(first < second).to_numpy(bool)]
    return _means(once, ["model", "estimator", "first", "second"], ["spearman", "spearman_noisy"], times)


def filtering(study: Frames, *, best: int = 3, times: int = 1000) -> pd.DataFrame:
    """Quality after filtering and retraining, by model, task and noise, beside the controls.

    The ``best`` configurations of a model are those of highest mean accuracy over all its cells; every baseline that
    was retrained is there too. ``gain`` is the accuracy over that of the noisy control of the same cell.
    """
    kept = [_best_retrained(study, best), _controls(study)]
    rows = pd.concat([part for part in kept if len(part)]) if any(map(len, kept)) else pd.DataFrame()
    if rows.empty:
        return rows
    noisy = rows[(rows["kind"] == "control") & (rows["estimator"] == "noisy")]
    base = noisy.drop_duplicates(CELL).set_index(CELL)["accuracy"].rename("noisy")
    joined = rows.join(base, on=CELL)
    joined["gain"] = joined["accuracy"] - joined["noisy"]
    arms = ["model", "task", "noise", "rate", "kind", "estimator", "layers", "how"]
    order = {"control": 0, "influence": 1, "baseline": 2}
    joined = joined.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")
    found = _means(joined, arms, [*QUALITY, "gain"], times)
    return found.sort_values(["model", "task", "noise", "rate"], kind="stable", ignore_index=True)


def _best_retrained(study: Frames, best: int) -> pd.DataFrame:
    """Rows of the best configurations of each model, by the mean accuracy over all cells, and of the baselines."""
    retrained = study.retrained
    keys = ["model", "estimator", "layers", "how"]
    means = retrained[retrained["kind"] == "influence"].groupby(keys)["accuracy"].mean()
    chosen = set(means.groupby(level="model", group_keys=False).nlargest(best).index)
    return retrained[_among(retrained, keys, chosen) | (retrained["kind"] == "baseline").to_numpy()]


def _controls(study: Frames) -> pd.DataFrame:
    """Rows of the controls; of those that remove as many as the cut, the ones at the cut of the study."""
    rows = study.results[(study.results["kind"] == "control") & study.results["accuracy"].notna()]
    at_cut = np.isclose(rows["cut"].astype(float), np.nan if study.cut is None else study.cut)
    return rows[at_cut | rows["estimator"].isin(["noisy", "oracle"]).to_numpy()]


def costs(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Seconds of each stage over the cells of a model, all of them together, and the highest memory.

    Of a stage, what each method adds to it; of the memory of one method nothing is known.
    """
    rows: list[dict[str, Any]] = []
    for keys, part in study.costs.groupby(["model", "stage", "method"], sort=False):
        model, stage, method = keys
        rows.append(
            {
                **{"model": model, "stage": f"{stage}: {method}" if method else stage, "cells": len(part)},
                **with_interval("seconds", mean_interval(part["seconds"], times=times)),
                "total_seconds": float(part["seconds"].sum()),
                "peak_memory_mb": float(part["peak_memory_mb"].max()),
            }
        )
    return pd.DataFrame(rows)


def _among(rows: pd.DataFrame, keys: list[str], chosen: set[Any]) -> Bool[np.ndarray, " n"]:
    """Which rows have a value of the keys that was chosen."""
    named = rows[keys].itertuples(index=False, name=None)
    return np.fromiter((key in chosen for key in named), dtype=bool, count=len(rows))


def _with_noise(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["ndr30"].notna()]


def _means(rows: pd.DataFrame, keys: Sequence[str], measures: Sequence[str], times: int) -> pd.DataFrame:
    """Each measure with its interval over the cells of each value of the keys, in the order they came."""
    found: list[dict[str, Any]] = []
    for named, part in _parts(rows, keys):
        line: dict[str, Any] = {**named, "cells": len(part)}
        for measure in measures:
            line |= with_interval(measure, mean_interval(part[measure], times=times))
        found.append(line)
    return pd.DataFrame(found)


def _parts(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    for values, part in rows.groupby(list(keys), sort=False, dropna=False):
        yield dict(zip(keys, values, strict=True)), part


def _prefixed(frame: pd.DataFrame, named: dict[str, Any]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(named, index=frame.index), frame], axis=1)
