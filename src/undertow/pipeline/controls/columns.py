"""What controls add to the harm table."""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from undertow.data import Samples
from undertow.influence.store import deciding_modules, module_keys
from undertow.pipeline.controls.stage import Controlled


def control_columns(
    controlled: Controlled, influence: xr.Dataset, train: Samples, flagged: Bool[np.ndarray, " n"], estimator: str
) -> dict[str, object]:
    """What controls add to the harm table, a value a row.

    wrong: probability of the label to be wrong; p_value: conformal p-value against good rows; stability: share of the
    resamples of the queries that flag the row; canary_label: the label that a canary was trained on;
    suggested_probability: that the suggested label of a flagged row is the right one; probe: probability of the row's
    label by probes that did not learn from it; against: row ids of the queries that a flagged row harms most.
    """
    names = np.array([*train.classes, None], dtype=object)
    columns: dict[str, object] = {
        "wrong": controlled.wrong,
        "p_value": controlled.p_value,
        "suggested_probability": np.where(flagged, controlled.suggestion, np.nan),
        "probe": controlled.probe,
        "canary_label": names[controlled.canary],
    }
    if controlled.stability is not None:
        columns["stability"] = controlled.stability
    if "influence" in influence:
        columns["against"] = queries_against(influence, np.flatnonzero(flagged), estimator)
    return columns


def queries_against(
    influence: xr.Dataset, rows: Int[np.ndarray, " row"], estimator: str, most: int = 5
) -> list[object]:
    """Row ids of the queries that each of some samples harms most, None for the other samples.

    The influence is summed over the modules that decide by default, each divided by its deviation, so that none drowns
    the others.
    """
    found: list[object] = [None] * influence.sizes["sample"]
    covered = influence["covered"].sel(estimator=estimator).values
    values, total = influence["influence"].sel(estimator=estimator), np.zeros((influence.sizes["query"], len(rows)))
    for m in deciding_modules(module_keys(influence), covered, "all") if len(rows) else ():
        block = values[m].values[:, rows].astype(np.float64)
        total += block / max(block.std(), 1e-30)
    ids = influence["query"].values
    for at, column in zip(rows.tolist(), total.T, strict=True):
        worst = np.argsort(column, kind="stable")[:most]
        found[at] = [int(ids[q]) for q in worst if column[q] < 0]
    return found
