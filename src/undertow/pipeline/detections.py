"""How well an audit, its layer groups and its other estimators find planted noise."""

import numpy as np
import pandas as pd
import xarray as xr

from undertow.baselines.simple import loss_harm
from undertow.influence.store import deciding_modules, module_keys
from undertow.metrics.noise import NoiseDetection, ideal_detection, noise_detection, random_detection
from undertow.pipeline.harm import group_harm
from undertow.pipeline.results import Detection
from undertow.pipeline.settings import AuditSettings


def detection_curves(harm: pd.DataFrame) -> dict[str, NoiseDetection]:
    """NDR curves of a harm table that knows its planted rows; empty for any other.

    Of the audit itself, the loss baseline, random order and the ideal order.
    """
    planted = _planted(harm)
    if planted is None:
        return {}
    n, noisy = len(planted), int(planted.sum())
    return {
        "audit": noise_detection(harm["harm"].to_numpy(), planted),
        "loss": noise_detection(loss_harm(harm["loss"].to_numpy()), planted),
        "random": random_detection(n, noisy),
        "ideal": ideal_detection(n, noisy),
    }


def detections(harm: pd.DataFrame, influence: xr.Dataset, settings: AuditSettings) -> tuple[Detection, ...]:
    """Noise detection of the audit, the controls, and the estimators that were stored beside the first."""
    planted = _planted(harm)
    if planted is None:
        return ()
    curves = detection_curves(harm)
    for column in harm.columns:
        name = str(column).removeprefix("baseline_")
        if name != column and name not in curves:
            curves[name] = noise_detection(harm[column].to_numpy(), planted)
    keys = module_keys(influence)
    for name in settings.estimators[1:]:
        covered = influence["covered"].sel(estimator=name).values
        modules = [m for m in deciding_modules(keys, covered, settings.layers) if covered[m]]
        if not modules:  # it is defined on other layers than those that decide
            continue
        beside = group_harm(influence, {"": modules}, settings, estimator=name)[""]
        curves[name] = noise_detection(beside, planted)
    return tuple(_detection(name, curve) for name, curve in curves.items())


def group_detections(harm: pd.DataFrame) -> tuple[Detection, ...]:
    """Noise detection of each layer group that the harm table holds."""
    planted = _planted(harm)
    if planted is None:
        return ()
    groups = [c for c in harm.columns if c.startswith("harm_")]
    return tuple(_detection(g.removeprefix("harm_"), noise_detection(harm[g].to_numpy(), planted)) for g in groups)


def _planted(harm: pd.DataFrame) -> np.ndarray | None:
    return harm["planted"].to_numpy(bool) if "planted" in harm else None


def _detection(name: str, curve: NoiseDetection) -> Detection:
    return Detection(name=name, ndr10=curve.ndr(0.1), ndr20=curve.ndr(0.2), ndr30=curve.ndr(0.3), auc=curve.auc)
