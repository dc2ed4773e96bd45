"""All that undertow knows about model architectures. No other file names one.

Small tables: which projections LoRA adapts by default in each model type, what the leaf names of projections
mean, what classification heads are called; and how linear maps, norms and word embeddings are told apart.
"""

import re
from collections.abc import Iterable

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from undertow.errors import ModelError

# Default LoRA targets by `config.model_type`: query and value projection, or the fused projection that holds both.
_SEPARATE_QV = ("q_proj", "v_proj")
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie"), ("query", "value")),
    "distilbert": ("q_lin", "v_lin"),
    "deberta-v2": ("query_proj", "value_proj"),
    "mpnet": ("q", "v"),
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "mixtral",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "olmo",
            "olmo2",
            "smollm3",
            "stablelm",
            "opt",
        ),
        _SEPARATE_QV,
    ),
    "gpt2": ("c_attn",),
    "phi3": ("qkv_proj",),
}

# What the last part of a projection's module path means: (kind, projection).
_PROJECTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("query", "q_proj", "q_lin", "query_proj", "q"), ("attention", "query")),
    **dict.fromkeys(("key", "k_proj", "k_lin", "key_proj", "k"), ("attention", "key")),
    **dict.fromkeys(("value", "v_proj", "v_lin", "value_proj", "v"), ("attention", "value")),
    **dict.fromkeys(("c_attn", "qkv_proj", "query_key_value"), ("attention", "query_key_value")),
    **dict.fromkeys(("o_proj", "out_lin", "o"), ("attention", "output")),
    **dict.fromkeys(("gate_proj",), ("mlp", "gate")),
    **dict.fromkeys(("gate_up_proj",), ("mlp", "gate_up")),
    **dict.fromkeys(("up_proj", "lin1", "fc1", "c_fc"), ("mlp", "up")),
    **dict.fromkeys(("down_proj", "lin2", "fc2"), ("mlp", "down")),
}

# Some layers give different things one name; their parents tell them apart.
_BY_PARENT: tuple[tuple[str, tuple[str, str]], ...] = (
    ("attention.output.dense", ("attention", "output")),
    ("intermediate.dense", ("mlp", "up")),
    ("output.dense", ("mlp", "down")),
    ("attn.c_proj", ("attention", "output")),
    ("mlp.c_proj", ("mlp", "down")),
    ("self_attn.out_proj", ("attention", "output")),
    ("attention.out_proj", ("attention", "output")),
)

# Attributes under which sequence classification models keep their head; a pooler is its first layer.
_FRONT_HEADS = ("pre_classifier", "pooler")
_HEADS = ("classifier", "score", "classification_head", *_FRONT_HEADS)

# Encoders whose classification head reads the first token alone, and the module of a layer behind which tokens no
# longer see each other: in the last layer, everything from there on is needed for the first token only.
_FIRST_TOKEN: dict[str, str] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra"), r"encoder\.layer\.(\d+)\.attention\.output$"
    ),
    "distilbert": r"transformer\.layer\.(\d+)\.sa_layer_norm$",
}

_LAYER_INDEX = re.compile(r"(?:^|\.)(?:layer|layers|h|block|blocks)\.(\d+)(?:\.|$)")


def default_lora_targets(model: nn.Module) -> tuple[str, ...]:
    """Leaf names of the query and value projections of a model.

    Raises:
        ModelError: for an architecture that is not in the table; lists its linear layers.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type in LORA_TARGETS:
        return LORA_TARGETS[model_type]
    raise ModelError(
        f"The architecture '{model_type}' is not known, so its query and value projections are not known "
        f"either. Known are: {', '.join(sorted(LORA_TARGETS))}. Name the linear layers to adapt with "
        f"--target-modules; this model has: {', '.join(linear_leaf_names(model))}."
    )


def linear_leaf_names(model: nn.Module) -> list[str]:
    """Distinct last path parts of a model's linear layers, in order of appearance."""
    names = (name.rsplit(".", 1)[-1] for name, m in model.named_modules() if is_linear(m))
    return list(dict.fromkeys(names))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map with a weight matrix and perhaps a bias."""
    return isinstance(module, nn.Linear | Conv1D)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear map holds its weight as [in, out] instead of [out, in]."""
    return isinstance(module, Conv1D)


def transposed_targets(model: nn.Module, targets: Iterable[str]) -> bool:
    """Whether linear layers with one of these leaf names hold their weights as [in, out]."""
    leaves = set(targets)
    return any(is_transposed(m) for name, m in model.named_modules() if name.rsplit(".", 1)[-1] in leaves)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm, RMSNorm or another norm with one scale a channel."""
    names = {name for name, _ in module.named_parameters()}
    scale = getattr(module, "weight", None)
    return (
        "norm" in type(module).__name__.lower()
        and names in ({"weight"}, {"weight", "bias"})
        and scale is not None
        and scale.ndim == 1
    )


def first_token_module(model: nn.Module) -> nn.Module | None:
    """The module whose inputs may be cut to the first token without changing what a classifier says, or None.

    It takes tensors [batch, time, features] and nothing else, and belongs to the last layer.
    """
    config = getattr(model, "config", None)
    pattern = _FIRST_TOKEN.get(getattr(config, "model_type", ""))
    unwrap = getattr(model, "get_base_model", None)
    task = type(unwrap() if callable(unwrap) else model)
    # A class of someone else's may read more than the first token, whatever it is called.
    stock = task.__module__.startswith("transformers.") and task.__name__.endswith("ForSequenceClassification")
    if pattern is None or not stock:
        return None
    found = {int(m[1]): module for path, module in model.named_modules() if (m := re.search(pattern, path))}
    return found[max(found)] if found else None


def embedding_scale(module: nn.Module) -> float:
    """The factor an embedding module puts on the rows it looks up; 1 for most."""
    scale, weight = getattr(module, "embed_scale", 1.0), module.weight
    if isinstance(scale, Tensor) and isinstance(weight, Tensor):
        scale = scale.to(weight.dtype)  # as it is before it is used
    return float(scale)


def check_targets(model: nn.Module, targets: Iterable[str]) -> None:
    """Refuse target names that match no linear layer.

    Raises:
        ModelError: names the unmatched targets and lists the linear layers there are.
    """
    known = linear_leaf_names(model)
    unknown = [t for t in targets if t not in known]
    if unknown:
        raise ModelError(
            f"No linear layer is called {', '.join(map(repr, unknown))}. --target-modules takes the last part "
            f"of a layer's name; this model has: {', '.join(known)}."
        )


def layer_index(path: str) -> int | None:
    """0-based layer a module path belongs to, or None outside the layers."""
    found = _LAYER_INDEX.search(path)
    return int(found.group(1)) if found else None


def is_head(path: str) -> bool:
    """Whether a module path lies in the classification head."""
    return layer_index(path) is None and any(part in _HEADS for part in path.split("."))


def kind_and_projection(path: str) -> tuple[str, str]:
    """(kind, projection) of the path of a linear map: kind is attention, mlp, head or other."""
    leaf = path.rsplit(".", 1)[-1]
    if is_head(path):
        return "head", leaf
    for ending, meaning in _BY_PARENT:
        if path.endswith(ending):
            return meaning
    return _PROJECTIONS.get(leaf, ("other", leaf))


def fresh_modules(missing: Iterable[str]) -> tuple[str, ...]:
    """Attributes of head layers that weights did not come for, given the names of missing parameters.

    LoRA trains the last layer of a head whole; what stands in front of it has to be named.
    """
    parts = (part for name in head_parameter_names(missing) for part in name.split("."))
    return tuple(dict.fromkeys(part for part in parts if part in _FRONT_HEADS))


def head_parameter_names(names: Iterable[str]) -> list[str]:
    """Those of some parameter names that belong to a classification head."""
    return [n for n in names if is_head(n.rsplit(".", 1)[0])]
