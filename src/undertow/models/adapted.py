"""Linear layers with a LoRA adapter of the plain kind: y = x W^T + b + s (x A^T) B^T."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.models.architectures import is_linear, is_transposed


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
    base: nn.Module
    a: nn.Module
    b: nn.Module
    scaling: float
    transposed: bool

    def folded_weight(self) -> Tensor:
        """W + s B A, [out, in], in the precision of W."""
        weight, a, b = (m.weight.detach() for m in (self.base, self.a, self.b))
        assert isinstance(weight, Tensor)
        update = (b.to(weight.dtype) @ a.to(weight.dtype)) * self.scaling
        return (weight.T if self.transposed else weight) + update


def adapted_layers(model: nn.Module) -> Iterator[AdaptedLayer]:
    """The adapted layers of a model in eval mode that are nothing but the equation above.

    Left out are layers with a variant of LoRA or a bias in B, weights that are quantised or held in less than
    float32 (to which s B A cannot be added without losing digits of it), and whatever someone else hooks or
    has replaced.
    """
    if not getattr(model, "peft_config", {}):
        return
    from peft.tuners.lora.layer import Linear

    for layer in model.modules():
        if type(layer) is not Linear or layer.merged or layer.disable_adapters or layer.lora_variant:
            continue
        active = [name for name in layer.active_adapters if name in layer.lora_A]
        if len(active) != 1:
            continue
        base, a, b = layer.base_layer, layer.lora_A[active[0]], layer.lora_B[active[0]]
        drops = layer.training and not isinstance(layer.lora_dropout[active[0]], nn.Identity)
        if _plain(layer, base, a, b) and not drops:
            yield AdaptedLayer(layer, base, a, b, float(layer.scaling[active[0]]), is_transposed(base))


def _plain(layer: nn.Module, base: nn.Module, a: nn.Module, b: nn.Module) -> bool:
    weight = getattr(base, "weight", None)
    wide = isinstance(weight, Tensor) and weight.dtype in (torch.float32, torch.float64) and not weight.is_meta
    stock = is_linear(base) and type(base).__module__.startswith(("torch.nn.", "transformers.pytorch_utils"))
    sides = type(a) is nn.Linear and type(b) is nn.Linear and a.bias is None and b.bias is None
    own = any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in (layer, base, a, b))
    return wide and stock and sides and not own
