"""undertow finds the training samples that drag a fine-tuned language model down, and cleans them out.

Everything public is loaded when it is first used, so that importing undertow costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.aggregation.in_memory import aggregate
    from undertow.data import Samples, load_samples, plant_noise, split_validation
    from undertow.errors import UndertowError
    from undertow.influence.store import open_influence
    from undertow.metrics.noise import noise_detection
    from undertow.pipeline.audit import audit
    from undertow.pipeline.compare import CompareOptions, compare_run
    from undertow.pipeline.harm_table import harm_table
    from undertow.pipeline.influence import influence_step
    from undertow.pipeline.layers import layer_profile
    from undertow.pipeline.outcome import Audit
    from undertow.pipeline.score import score
    from undertow.pipeline.scorer import Scorer, Scoring
    from undertow.pipeline.settings import AuditSettings
    from undertow.pipeline.steps import fine_tune_step, start_in_memory
    from undertow.study.experiment import experiment

__version__ = version("undertow")

_WHERE = {
    "Audit": "undertow.pipeline.outcome",
    "AuditSettings": "undertow.pipeline.settings",
    "CompareOptions": "undertow.pipeline.compare",
    "Samples": "undertow.data",
    "Scorer": "undertow.pipeline.scorer",
    "Scoring": "undertow.pipeline.scorer",
    "UndertowError": "undertow.errors",
    "aggregate": "undertow.aggregation.in_memory",
    "audit": "undertow.pipeline.audit",
    "compare_run": "undertow.pipeline.compare",
    "experiment": "undertow.study.experiment",
    "fine_tune_step": "undertow.pipeline.steps",
    "harm_table": "undertow.pipeline.harm_table",
    "influence_step": "undertow.pipeline.influence",
    "layer_profile": "undertow.pipeline.layers",
    "load_samples": "undertow.data",
    "noise_detection": "undertow.metrics.noise",
    "open_influence": "undertow.influence.store",
    "plant_noise": "undertow.data",
    "score": "undertow.pipeline.score",
    "split_validation": "undertow.data",
    "start_in_memory": "undertow.pipeline.steps",
}

__all__ = [
    "Audit",
    "AuditSettings",
    "CompareOptions",
    "Samples",
    "Scorer",
    "Scoring",
    "UndertowError",
    "aggregate",
    "audit",
    "compare_run",
    "experiment",
    "fine_tune_step",
    "harm_table",
    "influence_step",
    "layer_profile",
    "load_samples",
    "noise_detection",
    "open_influence",
    "plant_noise",
    "score",
    "split_validation",
    "start_in_memory",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'undertow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
