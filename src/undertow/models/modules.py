"""Which modules of a model are tracked, and what they are called."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from undertow.errors import ModelError
from undertow.models.architectures import (
    is_linear,
    is_norm,
    is_transposed,
    kind_and_projection,
    layer_index,
)
from undertow.models.keys import ModuleKey
from undertow.models.trackable import check_track

Operation = Literal["linear", "norm", "embedding"]

_LORA_SIDE = re.compile(r"^(?P<base>.+)\.(?P<side>lora_A|lora_B)\.(?P<adapter>[^.]+)$")
# What PEFT and the task wrapper put in front of and inside a path; noise to a reader.
_WRAPPERS = re.compile(r"^base_model\.model\.|(?<=\.)(?:modules_to_save\.[^.]+\.|base_layer\.)")


@dataclass(frozen=True)
class TrackedModule:
    """A module whose per-sample gradients are taken, with its key.

    Attributes:
        key: its name and place.
        module: the module itself.
        operation: linear (y = x W^T + b), norm (y = a(scale) x^ + b, with a affine), or embedding (rows looked up).
        transposed: whether a linear map holds its weight as [in, out].
        path: the module's path in the model as it is, wrappers included.
    """

    key: ModuleKey
    module: nn.Module
    operation: Operation = "linear"
    transposed: bool = False
    path: str = ""


def tracked_modules(model: nn.Module, track: Sequence[str] = ("auto",)) -> tuple[TrackedModule, ...]:
    """The modules of a model whose gradients are taken, in the order of the model.

    ``track`` names what is wanted: ``lora`` (A and B of every adapted linear layer), ``head`` (linear layers of
    the classification head), ``linear`` (every other linear layer, Conv1D included), ``norm`` (scales, with
    their biases, of LayerNorm and RMSNorm), ``embedding`` (the word embeddings). ``auto`` is what fine-tuning
    changed, plus the word embeddings: with an adapter its LoRA matrices and the modules trained whole beside
    them, without one everything. A weight and its bias form one module. The input side of a tied embedding is
    tracked on its own; the output side is the linear layer that it is.

    Raises:
        ConfigError: for an unknown name in ``track``.
        ModelError: for adapters whose gradient is not that of two linear maps (DoRA, adapted embeddings, several
            adapters), or that take no part in the forward pass (merged, disabled), or when there is nothing to
            track.
    """
    check_track(track)
    _refuse_unsupported_adapters(model)
    adapted = bool(getattr(model, "peft_config", {}))
    found = [
        t
        for t, sort in _candidates(model, adapted)
        if sort in track or ("auto" in track and (t.key.trained or sort == "embedding"))
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has nothing of what is to be tracked ({', '.join(track)}). Pass a "
            "sequence classification model, name other parts with --track, or let it be fine-tuned with "
            "--finetune always."
        )
    return tuple(found)


def _candidates(model: nn.Module, adapted: bool) -> Iterator[tuple[TrackedModule, str]]:
    """Everything that could be tracked, with what it counts as."""
    words = _word_embedding(model)
    for path, module in model.named_modules():
        if "original_module" in path.split("."):
            continue
        lora = _LORA_SIDE.match(path)
        base, side = (_clean(lora["base"]), lora["side"]) if lora else (_clean(path), "weight")
        whole = not adapted or "modules_to_save" in path.split(".")  # trained as it is
        if words is not None and module is words:
            yield _tracked(path, base, module, "embedding", ("embedding", _leaf(base)), whole), "embedding"
        elif is_linear(module):
            kind, projection = kind_and_projection(base)
            trained = bool(lora) or whole
            found = _tracked(path, base, module, "linear", (kind, projection), trained, side)
            # A frozen pooler in front of a trained head is no part of that head.
            yield found, "lora" if lora else "head" if kind == "head" and trained else "linear"
        elif is_norm(module):
            yield _tracked(path, base, module, "norm", ("norm", _leaf(base)), whole), "norm"


def _tracked(
    path: str,
    base: str,
    module: nn.Module,
    operation: Operation,
    meaning: tuple[str, str],
    trained: bool,
    side: str = "weight",
) -> TrackedModule:
    kind, projection = meaning
    name = base if side == "weight" else f"{base}.{side}"
    size = sum(p.numel() for p in module.parameters(recurse=False))
    key = ModuleKey(name, layer_index(base), projection, side, kind, size, trained)
    return TrackedModule(key, module, operation, is_transposed(module), path)


def _word_embedding(model: nn.Module) -> nn.Module | None:
    try:
        embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    copies = getattr(embedding, "modules_to_save", None)  # trained whole beside an adapter: the copy is what runs
    return next(iter(copies.values())) if copies else embedding


def _leaf(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _clean(path: str) -> str:
    return _WRAPPERS.sub("", path + ".").rstrip(".")


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
        if getattr(config, "trainable_token_indices", None):
            raise ModelError(
                "The adapter trains the embeddings of some tokens only (trainable_token_indices), whose per-sample "
                "gradients are not computed here. Train all of them with modules_to_save, or none."
            )
        if getattr(config, "use_dora", False):
            raise ModelError(
                "The adapter uses DoRA, whose per-sample gradients are not computed here. Fine-tune with "
                "plain LoRA or rsLoRA (use_dora=False), or pass --finetune always to have it done."
            )
    _refuse_unsupported_targets(model)
    # Such an A and B never run: their gradients would be zero without a word.
    if any(m.merged or m.disable_adapters for m in model.modules() if hasattr(m, "lora_A")):
        raise ModelError(
            "The adapter is merged into its base layers or switched off, so it takes no part in the model. "
            "Call unmerge_adapter() or enable_adapter_layers() on the model first."
        )


def _refuse_unsupported_targets(model: nn.Module) -> None:
    """LoRA on anything but linear layers has gradients that are not those of two linear maps."""
    for path, module in model.named_modules():
        sides = [*getattr(module, "lora_A", {}).values()] if hasattr(module, "lora_A") else []
        others = [type(s).__name__ for s in sides if not is_linear(s)]
        others += ["an embedding"] * len(getattr(module, "lora_embedding_A", {}))
        if others:
            raise ModelError(
                f"The adapter adapts {_clean(path)}, which is not a linear layer but {others[0]}; its per-sample "
                "gradients are not computed here. Accepted is LoRA on linear layers: choose other --target-modules."
            )
