"""How the gradients of each module are held: as they are, by their factors, or as sparse rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch
from undertow.errors import ConfigError, ModelError
from undertow.gradients.hooks import first_token_only
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule

Form = Literal["dense", "factored", "sparse"]

# Parameters above which a linear layer's gradients are never held as [samples, out x in].
LARGE = 65_536
# Parameters up to which gradients are held dense whatever the factors take: nothing is faster.
SMALL = 4_096


@dataclass(frozen=True)
class Layout:
    """How the gradients of one module are held.

    dense: [n, size]. factored: inputs x [units, in] and output gradients delta [units, out] of all units of all
    samples, a unit being a token, or the one vector of a sample behind a pooler; the gradient of a sample is
    the sum over its units of delta x^T. sparse: one row [width] for each distinct token of each sample.

    Attributes:
        key: the module's key.
        form: dense, factored or sparse.
        operation: linear, norm or embedding.
        inputs: features that come in; of an embedding, the vocabulary.
        outputs: features that go out.
        bias: whether the module has a bias.
        transposed: whether its weight is held as [in, out].
        pooled: whether it sees one vector a sample instead of one a token.
        runs: how often it runs in one forward pass.
        shared: whether some of its input is the same for all samples of a batch, so that batches hold one.
        padding: token whose row an embedding never trains, or None.
        project: rows of each side's random projection, or None for exact gradients.
        seed: seed of the projection.
    """

    key: ModuleKey
    form: Form
    operation: Literal["linear", "norm", "embedding"]
    inputs: int
    outputs: int
    bias: bool = False
    transposed: bool = False
    pooled: bool = False
    runs: int = 1
    shared: bool = False
    padding: int | None = None
    project: int | None = None
    seed: int = 0

    @property
    def size(self) -> int:
        """Numbers of one dense gradient as it is held."""
        if self.project is None:
            return self.key.size
        return min(self.project, self.inputs + self.bias) * min(self.project, self.outputs)

    def floats(self, units: float, distinct: float) -> float:
        """Numbers held a sample, given its tokens and its distinct tokens."""
        if self.form == "dense":
            return float(self.size)
        if self.form == "sparse":
            return distinct * self.outputs
        return (1.0 if self.pooled else units) * self.runs * (self.inputs + self.outputs)


def plan_layouts(
    model: nn.Module,
    modules: Sequence[TrackedModule],
    encoded: Encoded,
    *,
    pad_id: int,
    project: int | None = None,
    seed: int = 0,
) -> tuple[Layout, ...]:
    """Choose how each module's gradients are held, for the lengths at hand.

    One forward pass of two rows shows what each module sees, of texts of any length. A linear layer of more than
    `LARGE` parameters is held by its factors, one of up to `SMALL` dense, others in whichever form is smaller;
    ``project`` replaces all of them by a seeded two-sided random projection of that many rows a side, where that is
    smaller.

    Raises:
        ConfigError: when ``project`` is below 1.
        ModelError: for a module that does not run, or whose input has no axis of samples.
    """
    if project is not None and project < 1:
        raise ConfigError(f"--project {project} is not accepted. It is a whole number from 1; 16 is usual.")
    seen = _probe(model, modules, encoded, pad_id)
    units = float(encoded.lengths.mean())
    return tuple(_layout(t, shapes, units, project, seed) for t, shapes in zip(modules, seen, strict=True))


def _layout(tracked: TrackedModule, shapes: "_Seen", units: float, project: int | None, seed: int) -> Layout:
    module, operation = tracked.module, tracked.operation
    weight: Tensor = module.weight  # type: ignore[assignment]
    if operation == "embedding":
        padding = getattr(module, "padding_idx", None)
        return Layout(tracked.key, "sparse", operation, weight.shape[0], weight.shape[1], padding=padding)
    shared = any(s != shapes.rows for s in shapes.samples)
    common: dict[str, Any] = {
        "bias": getattr(module, "bias", None) is not None,
        "runs": len(shapes.samples),
        "shared": shared,
    }
    if operation == "norm":
        return Layout(tracked.key, "dense", operation, weight.shape[0], weight.shape[0], **common)
    inputs, outputs = weight.shape if tracked.transposed else reversed(weight.shape)
    pooled = all(u == 1 for u in shapes.units)
    # Units that are neither tokens nor one a sample cannot be told apart by sample afterwards.
    regular = pooled or all(u == shapes.width for u in shapes.units)
    factors = (1 if pooled else units) * len(shapes.samples) * (inputs + outputs)
    size = tracked.key.size
    factored = project is None and regular and not shared and size > SMALL and size > min(LARGE, factors)
    return Layout(
        tracked.key,
        "factored" if factored else "dense",
        operation,
        int(inputs),
        int(outputs),
        transposed=tracked.transposed,
        pooled=pooled,
        project=project if project is not None and project**2 < size else None,
        seed=seed,
        **common,
    )


@dataclass(frozen=True)
class _Seen:
    """What a module saw of a batch of ``rows`` rows and ``width`` tokens: samples and units of each run."""

    rows: int
    width: int
    samples: tuple[int, ...]
    units: tuple[int, ...]


def _note(shapes: list[tuple[int, int]], _: nn.Module, arguments: tuple[Any, ...], __: Any) -> None:
    shape = tuple(arguments[0].shape)
    shapes.append((shape[0], math.prod(shape[1:-1])))


def _probe(model: nn.Module, modules: Sequence[TrackedModule], encoded: Encoded, pad_id: int) -> list[_Seen]:
    shapes: list[list[tuple[int, int]]] = [[] for _ in modules]
    rows = np.argsort(-encoded.lengths, kind="stable")[:2]
    if len(rows) == 1:
        rows = np.repeat(rows, 2)  # two samples tell a shared input from one of their own
    device = next(model.parameters()).device
    # Two tokens at least, be they padding: one would look like a pooled input, and queries may have more.
    padded = pad_batch(encoded, rows, pad_id, width=2)
    batch = {name: torch.from_numpy(a).to(device) for name, a in padded.items()}
    handles = [t.module.register_forward_hook(partial(_note, s)) for t, s in zip(modules, shapes, strict=True)]
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), first_token_only(model):
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    width = int(batch["input_ids"].shape[1])
    idle = [t.key.name for t, found in zip(modules, shapes, strict=True) if not found]
    if idle:
        raise ModelError(
            f"{len(idle)} of the modules to track take no part in the forward pass: {', '.join(idle[:5])}. Leave them "
            "out with --track, or take the adapter off layers that the model does not use."
        )
    return [_Seen(len(rows), width, tuple(s for s, _ in f), tuple(u for _, u in f)) for f in shapes]
