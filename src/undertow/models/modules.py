"""Which modules of a model are tracked, and what they are called."""

import re
from dataclasses import dataclass

from torch import nn

from undertow.errors import ModelError
from undertow.models.architectures import is_head, kind_and_projection, layer_index
from undertow.models.keys import ModuleKey

_LORA_SIDE = re.compile(r"^(?P<base>.+)\.(?P<side>lora_A|lora_B)\.(?P<adapter>[^.]+)$")
# What PEFT and the task wrapper put in front of and inside a path; noise to a reader.
_WRAPPERS = re.compile(r"^base_model\.model\.|(?<=\.)(?:modules_to_save\.[^.]+\.|base_layer\.)")


@dataclass(frozen=True)
class TrackedModule:
    """A module whose per-sample gradients are taken, with its key."""

    key: ModuleKey
    module: nn.Linear


def _clean(path: str) -> str:
    return _WRAPPERS.sub("", path + ".").rstrip(".")


def tracked_modules(model: nn.Module) -> tuple[TrackedModule, ...]:
    """LoRA A and B of every adapted linear layer, and the linear layers of the classification head.

    The order is that of the model. A head layer's weight and bias form one module.

    Raises:
        ModelError: for adapters whose gradient is not that of two linear maps (DoRA, several adapters), or
            that take no part in the forward pass (merged, disabled), or when there is nothing to track.
    """
    _refuse_unsupported_adapters(model)
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or "original_module" in path.split("."):
            continue
        lora = _LORA_SIDE.match(path)
        base, side = (_clean(lora["base"]), lora["side"]) if lora else (_clean(path), "weight")
        if not lora and not is_head(base):
            continue
        kind, projection = kind_and_projection(base)
        name = f"{base}.{side}" if lora else base
        size = sum(p.numel() for p in module.parameters())
        found.append(TrackedModule(ModuleKey(name, layer_index(base), projection, side, kind, size), module))
    if not found:
        raise ModelError(
            f"{type(model).__name__} has neither LoRA adapters nor a classification head that could be "
            "tracked. Pass a sequence classification model, or let it be fine-tuned with --finetune always."
        )
    return tuple(found)


def _refuse_unsupported_adapters(model: nn.Module) -> None:
    configs = getattr(model, "peft_config", {})
    if len(configs) > 1:
        raise ModelError(
            f"The model carries {len(configs)} adapters ({', '.join(configs)}); exactly one is accepted. "
            "Load the model with the one adapter that is to be audited."
        )
    for config in configs.values():
        kind = getattr(config.peft_type, "value", str(config.peft_type))
        if kind != "LORA":
            raise ModelError(f"The adapter is of type {kind}; only LORA is accepted. Fine-tune with LoRA instead.")
        if getattr(config, "use_dora", False):
            raise ModelError(
                "The adapter uses DoRA, whose per-sample gradients are not computed here. Fine-tune with "
                "plain LoRA or rsLoRA (use_dora=False), or pass --finetune always to have it done."
            )
    # Such an A and B never run: their gradients would be zero without a word.
    if any(m.merged or m.disable_adapters for m in model.modules() if hasattr(m, "lora_A")):
        raise ModelError(
            "The adapter is merged into its base layers or switched off, so it takes no part in the model. "
            "Call unmerge_adapter() or enable_adapter_layers() on the model first."
        )
