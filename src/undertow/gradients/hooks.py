"""What each tracked module sees of a batch, from one forward and one backward pass.

A forward hook keeps a module's input, a hook on its output receives delta = dl/dy for the whole batch. No
parameter requires a gradient, so the backward pass computes no weight gradients; and the graph begins at the
first tracked module, so nothing in front of it is passed at all.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from undertow.gradients.folding import Receiver, fold
from undertow.gradients.local import normalised_input
from undertow.models.architectures import embedding_scale, first_token_module
from undertow.models.modules import TrackedModule


@contextlib.contextmanager
def first_token_only(model: nn.Module) -> Iterator[None]:
    """While open, the last layer of an encoder computes only what its head reads, where that is known.

    Neither logits nor gradients change: the other tokens of the last layer reach no loss.
    """
    module = first_token_module(model)
    if module is None:
        yield
        return
    handle = module.register_forward_pre_hook(lambda _, arguments: tuple(a[:, :1] for a in arguments))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def capture(model: nn.Module, modules: Sequence[TrackedModule], receive: Receiver) -> Iterator[None]:
    """While open, every backward pass through the model hands each module's factors to ``receive``.

    Inside, no parameter requires a gradient; what required one does so again on leaving. A module that runs
    twice in one forward pass is received twice.
    """
    required = [(p, p.requires_grad) for p in model.parameters()]
    with contextlib.ExitStack() as stack:
        for parameter, requires in required:
            stack.callback(parameter.requires_grad_, requires)
        model.requires_grad_(False)
        served = stack.enter_context(fold(model, modules, receive))
        for i, tracked in enumerate(modules):
            if i not in served:
                hook = partial(_forward_hook, i, tracked, receive)
                stack.callback(tracked.module.register_forward_hook(hook).remove)
        yield


def _forward_hook(
    position: int,
    tracked: TrackedModule,
    receive: Receiver,
    module: nn.Module,
    arguments: tuple[Any, ...],
    output: Tensor,
) -> Tensor:
    x: Tensor | None = None
    scale = 1.0
    if tracked.operation == "linear":
        x = arguments[0].detach()
    elif tracked.operation == "norm":
        x = normalised_input(module, arguments[0].detach())
    else:
        scale = embedding_scale(module)
    output = output if output.requires_grad else output.detach().requires_grad_(True)
    output.register_hook(  # type: ignore[no-untyped-call]
        lambda delta: receive(position, x, delta if scale == 1.0 else delta * scale)
    )
    return output
