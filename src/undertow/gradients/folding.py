"""LoRA at the price of the layer it adapts: one product with W + s B A, forward and backward.

With y = x (W + s B A)^T + b, the factors of A are x and s delta B, those of B are s x A^T and delta, for
delta = dl/dy: two products as narrow as the rank, made when delta arrives. Running A and B in the model itself
takes six passes over tensors as wide as the layer for the same.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from undertow.models.adapted import AdaptedLayer, adapted_layers
from undertow.models.modules import TrackedModule

# Called with the position of a module, what its parameters are multiplied with [batch, *time, in] (None for an
# embedding), and the gradient of its output [batch, *time, out].
Receiver = Callable[[int, Tensor | None, Tensor], None]


@dataclass(frozen=True)
class _Folded:
    """An adapted layer that runs folded, and the positions of what is tracked of it."""

    adapted: AdaptedLayer
    a: int | None
    b: int | None


@contextlib.contextmanager
def fold(model: nn.Module, modules: Sequence[TrackedModule], receive: Receiver) -> Iterator[frozenset[int]]:
    """While open, plain LoRA layers run folded; yields the positions of the modules that are thereby served.

    A layer whose frozen linear layer is itself tracked runs as it is. Logits and gradients change by rounding only.
    """
    places = {id(t.module): i for i, t in enumerate(modules)}
    folded = [
        _Folded(found, places.get(id(found.a)), places.get(id(found.b)))
        for found in adapted_layers(model)
        if id(found.base) not in places
    ]
    try:
        for one in folded:
            vars(one.adapted.layer)["forward"] = partial(_forward, one, one.adapted.folded_weight(), receive)
        yield frozenset(i for one in folded for i in (one.a, one.b) if i is not None)
    finally:
        for one in folded:
            vars(one.adapted.layer).pop("forward", None)


def _forward(one: _Folded, weight: Tensor, receive: Receiver, x: Tensor) -> Tensor:
    y = nn.functional.linear(x, weight, one.adapted.base.bias)
    if one.a is None and one.b is None:
        return y
    y = y if y.requires_grad else y.detach().requires_grad_(True)
    y.register_hook(partial(_unfold, one, receive, x.detach()))  # type: ignore[no-untyped-call]
    return y


def _unfold(one: _Folded, receive: Receiver, x: Tensor, delta: Tensor) -> None:
    a, b, scaling = one.adapted.a.weight, one.adapted.b.weight, one.adapted.scaling
    if one.a is not None:
        receive(one.a, x, (delta @ b.to(delta.dtype)) * scaling)
    if one.b is not None:
        receive(one.b, (x @ a.T.to(x.dtype)) * scaling, delta)
