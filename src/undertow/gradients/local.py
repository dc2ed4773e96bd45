"""What a module's parameters receive from each sample of a batch, given its input and its output's gradient."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear_gradient(
    inputs: Float[Tensor, "batch *time in_features"],
    output_gradient: Float[Tensor, "batch *time out_features"],
    *,
    bias: bool,
    transposed: bool = False,
) -> Float[Tensor, "batch size"]:
    """Per-sample gradient of y = x W^T + b, weight row by row and then bias, in float32 or better.

    dl/dW = sum_t delta_t x_t^T and dl/db = sum_t delta_t with delta = dl/dy. size = out_features * in_features,
    plus out_features with a bias. ``transposed`` gives the weight as [in, out].
    """
    x, delta = batched(inputs), batched(output_gradient)
    weight = torch.bmm(x.transpose(1, 2), delta) if transposed else torch.bmm(delta.transpose(1, 2), x)
    return torch.cat([weight.flatten(1), delta.sum(1)], dim=1) if bias else weight.flatten(1)


def norm_gradient(
    normalised: Float[Tensor, "batch *time features"],
    output_gradient: Float[Tensor, "batch *time features"],
    *,
    bias: bool,
) -> Float[Tensor, "batch size"]:
    """Per-sample gradient of y = x^ a(scale) + b, scale and then bias, given x^ a'(scale)."""
    delta = batched(output_gradient)
    scale = (delta * batched(normalised)).sum(1)
    return torch.cat([scale, delta.sum(1)], dim=1) if bias else scale


def normalised_input(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a norm multiplies its scale with.

    Every norm is affine in its scale, so this is its output at scale one minus its output at scale zero (and no
    bias, which would only cost digits), whether it computes x^ scale or x^ (1 + scale), whatever its epsilon.
    """
    held = module._parameters
    blank = {name: None if p is None else _filled(p, 0.0) for name, p in held.items()}
    outputs = []
    try:
        with torch.no_grad():
            for value in (1.0, 0.0):
                module._parameters = {**blank, "weight": _filled(held["weight"], value)}
                # Not through a call, which runs hooks; and not on a copy, whose forward may be bound to the module.
                outputs.append(module.forward(inputs))
    finally:
        module._parameters = held
    one, zero = outputs
    difference: Tensor = one - zero
    return difference


def _filled(parameter: Tensor | None, value: float) -> nn.Parameter:
    assert parameter is not None
    return nn.Parameter(torch.full_like(parameter, value), requires_grad=False)


def batched(values: Float[Tensor, "batch *time features"]) -> Float[Tensor, "batch units features"]:
    """All axes between sample and feature as one, in float32 or better."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.reshape(values.shape[0], -1, values.shape[-1]).to(wide)
