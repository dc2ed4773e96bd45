"""Per-sample gradients of all tracked modules from one forward and one backward pass.

For a linear map y = x W^T + b applied at positions t of a sample, the gradient of that sample's own loss is
dl/dW = sum_t delta_t x_t^T and dl/db = sum_t delta_t, with delta = dl/dy. A forward hook keeps x, a hook on y
receives delta for the whole batch, and one batched product gives the gradients of all samples at once.
No parameter requires a gradient, so the backward pass computes no weight gradients at all.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from undertow.models.modules import TrackedModule

# Called with the position of a module and the gradients of the batch, [batch, size].
GradientSink = Callable[[int, Tensor], None]


def linear_gradient(
    inputs: Float[Tensor, "batch *time in_features"],
    output_gradient: Float[Tensor, "batch *time out_features"],
    *,
    bias: bool,
) -> Float[Tensor, "batch size"]:
    """Per-sample gradient of a linear layer, weight row by row and then bias, in float32 or better.

    size = out_features * in_features, plus out_features with a bias.
    """
    wide = torch.promote_types(torch.promote_types(inputs.dtype, output_gradient.dtype), torch.float32)
    x = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1]).to(wide)
    delta = output_gradient.reshape(output_gradient.shape[0], -1, output_gradient.shape[-1]).to(wide)
    weight = torch.bmm(delta.transpose(1, 2), x).flatten(1)
    return torch.cat([weight, delta.sum(1)], dim=1) if bias else weight


@contextlib.contextmanager
def capture(model: nn.Module, modules: Sequence[TrackedModule], sink: GradientSink) -> Iterator[None]:
    """While open, every backward pass through the model hands each module's gradients to ``sink``.

    Inside, no parameter requires a gradient and the word embedding output is the leaf that carries the
    graph; both are put back on leaving. A module that runs twice in one forward pass gives the sink two
    calls, whose gradients add up.
    """
    required = [(p, p.requires_grad) for p in model.parameters()]
    handles = [_input_embedding(model).register_forward_hook(_as_leaf)]
    handles += [t.module.register_forward_hook(_keep(i, t.module, sink)) for i, t in enumerate(modules)]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, requires in required:
            parameter.requires_grad_(requires)


def _keep(position: int, module: nn.Linear, sink: GradientSink) -> Callable[..., None]:
    bias = module.bias is not None

    def forward_hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        x = arguments[0].detach()
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda delta: sink(position, linear_gradient(x, delta, bias=bias))
        )

    return forward_hook


def _as_leaf(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.detach().requires_grad_(True)


def _input_embedding(model: nn.Module) -> nn.Module:
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    return embedding
