"""Linear layers with a LoRA adapter of the plain kind: y = x W^T + b + s (x A^T) B^T."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from undertow.models.architectures import is_transposed


@dataclass(frozen=True)
class AdaptedLayer:
    """One linear layer with its adapter.

    Attributes:
        layer: the wrapper that is called in place of the linear layer.
        base: the linear layer, its weight [out, in] or, where ``transposed``, [in, out].
        a: lora_A, weight [r, in].
        b: lora_B, weight [out, r].
        scaling: the factor s.
        transposed: how ``base`` holds its weight.
    """

    layer: nn.Module
    base: nn.Linear | Conv1D
    a: nn.Linear
    b: nn.Linear
    scaling: float
    transposed: bool

    def folded_weight(self) -> Tensor:
        """W + s B A, [out, in], in the precision of W."""
        weight, a, b = (m.weight.detach() for m in (self.base, self.a, self.b))
        update = (b.to(weight.dtype) @ a.to(weight.dtype)) * self.scaling
        folded: Tensor = (weight.T if self.transposed else weight) + update
        return folded


def adapted_layers(model: nn.Module) -> Iterator[AdaptedLayer]:
    """The adapted layers of a model in eval mode that are nothing but the equation above.

    Left out are layers with a variant of LoRA or a bias in B, weights that are quantised or held in less than
    float32 (to which s B A cannot be added without losing digits of it), and whatever someone else hooks or
    has replaced.
    """
    if not getattr(model, "peft_config", {}):
        return
    from peft.tuners.lora.layer import Linear

    layer: Any
    for layer in model.modules():
        if type(layer) is not Linear or layer.merged or layer.disable_adapters or layer.lora_variant:
            continue
        active = [name for name in layer.active_adapters if name in layer.lora_A]
        if len(active) != 1:
            continue
        base, a, b = layer.base_layer, layer.lora_A[active[0]], layer.lora_B[active[0]]
        drops = layer.training and not isinstance(layer.lora_dropout[active[0]], nn.Identity)
        if not drops and _plain(layer, base, a, b):
            yield AdaptedLayer(layer, base, a, b, float(layer.scaling[active[0]]), is_transposed(base))


def _plain(layer: nn.Module, base: nn.Module, a: nn.Module, b: nn.Module) -> bool:
    weight = getattr(base, "weight", None)
    wide = isinstance(weight, Tensor) and weight.dtype in (torch.float32, torch.float64) and not weight.is_meta
    stock = type(base) in (nn.Linear, Conv1D)
    sides = all(type(side) is nn.Linear and getattr(side, "bias", None) is None for side in (a, b))
    own = any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in (layer, base, a, b))
    return wide and stock and sides and not own
