"""All that undertow knows about model architectures. No other file names one.

Three small tables: which projections LoRA adapts by default in each model type, what the leaf names of
projections mean, and what classification heads are called.
"""

import re
from collections.abc import Iterable

from torch import nn

from undertow.errors import ModelError

# Default LoRA targets, query and value projection, by `config.model_type`.
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
}

# What the last part of a projection's module path means: (kind, projection).
_PROJECTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("query", "q_proj", "q_lin", "query_proj", "q"), ("attention", "query")),
    **dict.fromkeys(("key", "k_proj", "k_lin", "key_proj", "k"), ("attention", "key")),
    **dict.fromkeys(("value", "v_proj", "v_lin", "value_proj", "v"), ("attention", "value")),
    **dict.fromkeys(("o_proj", "out_lin", "o"), ("attention", "output")),
    **dict.fromkeys(("gate_proj",), ("mlp", "gate")),
    **dict.fromkeys(("up_proj", "lin1", "fc1"), ("mlp", "up")),
    **dict.fromkeys(("down_proj", "lin2", "fc2"), ("mlp", "down")),
}

# BERT-like layers call four different things "dense"; their parents tell them apart.
_DENSE_PARENTS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("attention.output.dense", ("attention", "output")),
    ("intermediate.dense", ("mlp", "up")),
    ("output.dense", ("mlp", "down")),
)

# Attributes under which sequence classification models keep their head.
_HEADS = ("classifier", "score", "pre_classifier", "classification_head")

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
    names = (name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear))
    return list(dict.fromkeys(names))


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
    """(kind, projection) of a base module path: kind is attention, mlp, head or other."""
    leaf = path.rsplit(".", 1)[-1]
    if is_head(path):
        return "head", leaf
    for ending, meaning in _DENSE_PARENTS:
        if path.endswith(ending):
            return meaning
    return _PROJECTIONS.get(leaf, ("other", leaf))


def head_parameter_names(names: Iterable[str]) -> list[str]:
    """Those of some parameter names that belong to a classification head."""
    return [n for n in names if is_head(n.rsplit(".", 1)[0])]
