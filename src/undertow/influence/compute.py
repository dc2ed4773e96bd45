"""From gradients to the influence tensor."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from undertow.errors import TrainingError
from undertow.gradients.store import GradientStore
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.names import check_estimators
from undertow.influence.store import InfluenceWriter


def compute_influence(
    queries: GradientStore,
    samples: GradientStore,
    estimators: Sequence[str],
    writer: InfluenceWriter,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the influence of every sample on every query, module by module, for all estimators.

    Raises:
        ConfigError: for an unknown estimator.
        TrainingError: when an estimator yields NaN or infinity; names estimator and module.
    """
    check_estimators(estimators)
    for m, key in enumerate(samples.keys):
        block = GradientBlock(queries[m].float(), samples[m].float())
        for e, name in enumerate(estimators):
            values = _finite(ESTIMATORS[name](block), name, key.name)
            writer.write(e, m, values)
        advance(1)


def _finite(influence: Tensor, estimator: str, module: str) -> np.ndarray:
    # A sum is finite only where every term is, and one pass over the block is cheaper than a mask.
    if not torch.isfinite(influence.sum(dtype=torch.float64)):
        raise TrainingError(
            f"{estimator} on {module} yielded NaN or infinity, because gradients of this module are not finite. The "
            "model has diverged: lower --learning-rate, or look at its weights."
        )
    return influence.numpy()
