"""Matrix products in float32 by the fastest kernel that torch ships for the processor.

On a CPU torch hands float32 products to MKL, which on processors of other makers than Intel runs at half of what
they can do; the oneDNN in the same torch does not. Both sum in float32, in another order.
"""

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Numbers of a weight below which a call costs more than its product.
_SMALL = 16_384


def has_kernel() -> bool:
    """Whether this torch has oneDNN products for this processor."""
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    x86 = platform.machine() in ("x86_64", "AMD64")
    return packet is not None and x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


_HAS_KERNEL = has_kernel()


def times_transposed(x: Float[Tensor, "m d"], w: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """x w^T, outside autograd; strides are free, products that oneDNN does not serve are torch's own."""
    if not _serves(x, w):
        return x @ w.T
    with torch.no_grad():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return result


class QuickLinear(TorchFunctionMode):
    """While open, linear layers in float32 on a CPU compute by oneDNN, forward and backward.

    Everything else is torch's own: other precisions, autocast, devices, small weights.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear and not kwargs and _serves(args[0], args[1]):
            return _Linear.apply(*args, *[None] * (3 - len(args)))  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """y = x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, weight) = gradients, ctx.saved_tensors
        flat = delta.reshape(-1, delta.shape[-1])
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = times_transposed(flat, weight.T).view(*delta.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[1]:
            of_weight = times_transposed(flat.T, x.reshape(-1, x.shape[-1]).T)
        if ctx.needs_input_grad[2]:
            of_bias = flat.sum(0)
        return of_x, of_weight, of_bias


def _serves(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_KERNEL
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.numel() >= _SMALL
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )
