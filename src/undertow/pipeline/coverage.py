"""Which estimator is defined on which module, known as soon as the model is."""

from collections.abc import Iterable, Sequence

import numpy as np

from undertow.errors import ConfigError
from undertow.influence.compute import covers
from undertow.influence.names import ESTIMATOR_NEEDS
from undertow.influence.store import check_covered, deciding_modules, influence_dataset
from undertow.models.modules import TrackedModule
from undertow.pipeline.settings import AuditSettings


def coverage(modules: Sequence[TrackedModule], estimators: Sequence[str], moments: Iterable[str]) -> np.ndarray:
    """Which estimator is defined on which module, [estimator, module]; ``moments`` names those with a state of Adam.

    Raises:
        ConfigError: for an estimator that is defined on none.
    """
    from undertow.influence import ekfac

    known = set(moments)
    covered = np.array(
        [[ekfac.covers(t) if e == "ekfac" else covers(e, t.key, known) for t in modules] for e in estimators]
    )
    idle = [e for e, some in zip(estimators, covered, strict=True) if not some.any()]
    if idle:
        raise ConfigError(
            f"{idle[0]} is defined on none of the {len(modules)} tracked modules. It needs "
            f"{', '.join(sorted(ESTIMATOR_NEEDS[idle[0]])) or 'other modules'}; --track chooses what is tracked."
        )
    return covered


def check_defined(modules: Sequence[TrackedModule], settings: AuditSettings) -> None:
    """Make sure that every estimator has modules, and the first one all those that decide.

    Raises:
        ConfigError: names estimator and modules.
    """
    keys = [t.key for t in modules]
    covered = coverage(modules, settings.estimators, [k.name for k in keys if k.trained])
    nothing = np.zeros(0, dtype=np.int64)
    frame = influence_dataset(settings.estimators, keys, nothing, nothing, covered)
    check_covered(frame, settings.estimators[0], deciding_modules(keys, covered[0], settings.layers))
