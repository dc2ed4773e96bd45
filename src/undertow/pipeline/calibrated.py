"""What calibration says of the user's rows, and what it adds to the harm table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from undertow.data import Samples
from undertow.influence.store import deciding_modules, module_keys
from undertow.pipeline.results import CalibrationResult


@dataclass(frozen=True)
class Calibrated:
    """What calibration says of the user's rows.

    Attributes:
        harm: of each row, [n]; higher is worse.
        flagged: how many of the most harmful rows are flagged.
        removed: how many of these are left out of the cleaned set.
        wrong: probability of each row's label to be wrong.
        low: the same at the lower end of the interval of the share.
        high: at its upper end.
        stability: share of the resamples of the queries that flag each row; None where the tensor was not kept.
        canary: class index that each canary was trained on, -1 elsewhere.
        suggested: class index of the likeliest other label of each row.
        suggestion: probability that this label is the right one.
        probe: probability of each row's label by the probe, which did not learn from this row.
        result: all else, as plain values.
        choices: table of all choices, best first.
        cuts: table of all cuts.
    """

    harm: Float[np.ndarray, " n"]
    flagged: int
    removed: int
    wrong: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    stability: Float[np.ndarray, " n"] | None
    canary: Int[np.ndarray, " n"]
    suggested: Int[np.ndarray, " n"]
    suggestion: Float[np.ndarray, " n"]
    probe: Float[np.ndarray, " n"]
    result: CalibrationResult
    choices: pd.DataFrame
    cuts: pd.DataFrame


def calibration_columns(
    calibrated: Calibrated, influence: xr.Dataset, train: Samples, flagged: Bool[np.ndarray, " n"], estimator: str
) -> dict[str, object]:
    """What calibration adds to the harm table, a value a row.

    wrong: probability of the label to be wrong; wrong_low and wrong_high: at the ends of the interval of the share;
    stability: share of the resamples of the queries that flag the row; canary_label: the label that a canary was
    trained on; suggested_probability: that the suggested label of a flagged row is the right one, which is that the
    given one is wrong and the suggested one the right one of the others; probe: probability that probes give the row's
    label, which did not learn from this row; against: row ids of the queries that a flagged row harms most.
    """
    names = np.array([*train.classes, None], dtype=object)
    columns: dict[str, object] = {
        "wrong": calibrated.wrong,
        "wrong_low": calibrated.low,
        "wrong_high": calibrated.high,
        "suggested_probability": np.where(flagged, calibrated.suggestion, np.nan),
        "probe": calibrated.probe,
        "canary_label": names[calibrated.canary],
    }
    if calibrated.stability is not None:
        columns["stability"] = calibrated.stability
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
