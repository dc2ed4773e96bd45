"""Attention computed in bfloat16 on a CPU, whose fused kernel is slow to differentiate where texts are short.

For up to `LONGEST` tokens two plain matrix products with a softmax between them take a third of the time forward and
backward (benchmarks/options.py); beyond, scores of all pairs of tokens cost more than they save.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Tokens up to which plain products are faster.
LONGEST = 256


@contextlib.contextmanager
def quick_attention(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """While open, attention of short texts runs as plain products where autocast computes it in bfloat16 on a CPU."""
    if device.type == "cpu" and autocast == torch.bfloat16:
        with _PlainProducts():
            yield
    else:
        yield


class _PlainProducts(TorchFunctionMode):
    """Takes the place of ``scaled_dot_product_attention`` where texts are short."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            key = args[1] if len(args) > 1 else kwargs["key"]
            if key.shape[-2] <= LONGEST:
                return plain_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def plain_attention(
    query: Float[Tensor, "*batch heads q d"],
    key: Float[Tensor, "*batch heads2 k d"],
    value: Float[Tensor, "*batch heads2 k v"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*batch heads q v"]:
    """What ``torch.nn.functional.scaled_dot_product_attention`` is defined as; the softmax in float32 or more.

    A token that may look at none averages over all, as transformers has it.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(repeats, dim=-3) for t in (key, value))
    products = query @ key.transpose(-1, -2)
    wide = torch.promote_types(products.dtype, torch.float32)
    scores = products.to(wide) * (query.shape[-1] ** -0.5 if scale is None else scale)
    lowest = torch.finfo(wide).min
    if is_causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not(), lowest)
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(attn_mask.logical_not(), lowest) if boolean else scores + attn_mask
    shares = scores.softmax(-1).to(value.dtype)
    return nn.functional.dropout(shares, dropout_p) @ value if dropout_p else shares @ value
