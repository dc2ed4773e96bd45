"""From gradients to the influence tensor."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from undertow.errors import ConfigError, TrainingError
from undertow.gradients.store import GradientStore
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.moments import Moments
from undertow.influence.names import ESTIMATOR_NEEDS, check_estimators
from undertow.influence.scratch import Scratch
from undertow.models.keys import ModuleKey

# Numbers of one influence block [query, sample]: 256 MB in float32. More queries come in chunks.
BLOCK = 64_000_000


@runtime_checkable
class BlockSink(Protocol):
    """Receives influence, block by block."""

    def write(self, estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        """Take the influence [query, sample] of some queries, for one estimator on one module.

        Its memory may be used again afterwards: copy what is to stay.
        """

    def complete(self, module: int) -> None:
        """Take note that all of a module was written."""


@dataclass(frozen=True)
class Checkpoint:
    """Gradients of queries and samples at one checkpoint, with the mean learning rate of the steps that led to it."""

    queries: GradientStore
    samples: GradientStore
    rate: float


def covers(estimator: str, key: ModuleKey, moments: Iterable[str] = ()) -> bool:
    """Whether an estimator is defined on a module; ``moments`` are the modules with an optimiser state."""
    needs = ESTIMATOR_NEEDS[estimator]
    if "embedding" in needs:
        return key.kind == "embedding"
    if "optimiser" in needs:
        return key.name in moments
    return True


def compute_influence(
    queries: GradientStore,
    samples: GradientStore,
    estimators: Sequence[str],
    sink: BlockSink,
    *,
    moments: Mapping[str, Moments] | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    given: Mapping[str, Mapping[int, Tensor]] | None = None,
    modules: Iterable[int] | None = None,
    rows: int | None = None,
    block: int = BLOCK,
    advance: Callable[[int], None] = lambda n: None,
    timing: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> None:
    """Write the influence of every sample on every query, module by module, for all estimators.

    Args:
        queries: gradients of the queries.
        samples: gradients of the samples.
        estimators: names.
        sink: receives the blocks.
        moments: state of the optimiser by module name, for ``less``.
        checkpoints: for ``tracincp``: sum over checkpoints of rate <v, g> (Pruthi et al. 2020).
        given: influence [q, n] by estimator and module, of estimators that need the model itself (``ekfac``).
        modules: positions of the modules to compute; all by default.
        rows: the first so many samples are training rows; those behind them are control rows, which are scored and
            enter no sum. All by default.
        block: numbers of a block [query, sample] at most.
        advance: told how many modules are done.
        timing: opened with the name of each estimator while it works; what several share, the first of them bears.

    Raises:
        ConfigError: for an unknown estimator, or one whose needs are not met.
        TrainingError: when an estimator yields NaN or infinity; names estimator and module.
    """
    check_estimators(estimators)
    known, elsewhere, scratch = moments or {}, given or {}, Scratch()
    _check_needs([n for n in estimators if n not in elsewhere], samples.keys, known, checkpoints)
    for m in range(len(samples)) if modules is None else modules:
        key = samples.keys[m]
        whole = GradientBlock(queries[m], samples[m], known.get(key.name), scratch, rows)
        trail = [(GradientBlock(c.queries[m], c.samples[m]), c.rate) for c in checkpoints]
        for part in whole.query_chunks(block):
            some = whole.of_queries(part)
            for e, name in enumerate(estimators):
                if m not in elsewhere[name] if name in elsewhere else not covers(name, key, known):
                    continue
                with timing(name):
                    if name in elsewhere:
                        values = elsewhere[name][m][part]
                    elif name == "tracincp":
                        values = tracincp([(b.of_queries(part), rate) for b, rate in trail])
                    else:
                        values = ESTIMATORS[name](some)
                    sink.write(e, m, part, _finite(values, name, key.name))
        sink.complete(m)
        advance(1)


def _check_needs(
    names: Sequence[str], keys: Sequence[ModuleKey], moments: Iterable[str], checkpoints: Sequence[Checkpoint]
) -> None:
    for name in names:
        needs = ESTIMATOR_NEEDS[name]
        if "checkpoints" in needs and not checkpoints:
            raise ConfigError(
                f"{name} adds up several checkpoints, and there are none. They are kept when undertow fine-tunes "
                "itself (--finetune always), or by the CheckpointRecorder callback in a training of your own."
            )
        if "model" in needs:
            raise ConfigError(
                f"{name} takes gradients of its own, so its influence is computed from the model and handed over, and "
                "none was. Compute it first (ekfac_influence), or choose another estimator."
            )
        if not any(covers(name, key, moments) for key in keys):
            raise ConfigError(
                f"{name} is defined on none of the {len(keys)} modules: it needs {', '.join(sorted(needs))}. Track a "
                "module that it is defined on, or choose another estimator."
            )


def tracincp(trail: Sequence[tuple[GradientBlock, float]]) -> Tensor:
    """Sum over checkpoints of rate <v, g>, [q, n]. Pruthi et al. 2020, "Estimating Training Data Influence by
    Tracing Gradient Descent".
    """
    first, rate = trail[0]
    total = first.inner * rate
    for block, rate in trail[1:]:
        total.add_(block.inner, alpha=rate)
    return total


def _finite(influence: Tensor, estimator: str, module: str) -> np.ndarray:
    # A sum is finite only where every term is; a sum that overflows though its terms do not is looked at again.
    if not torch.isfinite(influence.sum()) and not torch.isfinite(influence).all():
        raise TrainingError(
            f"{estimator} on {module} yielded NaN or infinity, because gradients of this module are not finite. The "
            "model has diverged: lower --learning-rate, or look at its weights. Gradients kept in float16 overflow "
            "above 65,504: use bfloat16 or float32."
        )
    return influence.numpy()
