"""What a tracked module is called and where it sits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModuleKey:
    """Name and place of one tracked module.

    Attributes:
        name: module path without wrappers, with the LoRA side as its last part.
        layer: 0-based layer, None outside the layers.
        projection: query, key, value, query_key_value (fused), output, gate, up, gate_up (fused), down, or the
            leaf name.
        side: lora_A, lora_B, or weight.
        kind: attention, mlp, norm, embedding, head, or other.
        size: number of parameters d of the module (a bias counts with its weight).
        trained: whether fine-tuning changed it; False for the frozen parts of a model with an adapter.
    """

    name: str
    layer: int | None
    projection: str
    side: str
    kind: str
    size: int
    trained: bool = True
