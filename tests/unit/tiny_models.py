"""Tiny classifiers with random weights, and rows of token ids for them."""

import warnings

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    RobertaConfig,
)

from undertow.data.tokenize import Encoded

VOCABULARY, WIDTH, PAD = 50, 16, 0
QUERY_VALUE = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
    "mistral": ["q_proj", "v_proj"],
}


def tiny_config(family: str, *, classes: int = 2, layers: int = 2) -> PreTrainedConfig:
    """A configuration of 16 hidden units, two attention heads and 50 tokens, of which 0 pads."""
    common = {"vocab_size": VOCABULARY, "num_labels": classes, "pad_token_id": PAD, "max_position_embeddings": 40}
    if family == "distilbert":
        return DistilBertConfig(**common, dim=WIDTH, n_layers=layers, n_heads=2, hidden_dim=24)
    encoder = {"num_hidden_layers": layers, "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}
    if family in ("bert", "roberta"):
        return {"bert": BertConfig, "roberta": RobertaConfig}[family](**common, **encoder)
    decoder = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": MistralConfig}[family]
    return decoder(**common, **encoder, num_key_value_heads=1)


def tiny_classifier(family: str, *, classes: int = 2, layers: int = 2, seed: int = 0) -> nn.Module:
    """A classifier in float64 and eval mode whose weights, biases included, are all random."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config(family, classes=classes, layers=layers))
    return shaken(model.double().eval())


def shaken(model: nn.Module) -> nn.Module:
    """Add noise to all weights, so that none is zero and the model says something."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def with_lora(
    model: nn.Module, targets: list[str] | str, *, adapter_name: str = "default", **options: object
) -> nn.Module:
    """Put LoRA on a classifier, with lora_B away from its usual zero."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=3, lora_alpha=5, target_modules=targets, **options)
    with warnings.catch_warnings():
        # peft reads names that newer transformers deprecate.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        adapted = get_peft_model(model, config, adapter_name).double().eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn_like(parameter))
    return adapted


def adapted_classifier(family: str, *, targets: list[str] | str | None = None, **options: int) -> nn.Module:
    """A tiny classifier with LoRA, on its query and value projections unless told otherwise."""
    return with_lora(tiny_classifier(family, **options), targets or QUERY_VALUE[family])


def random_rows(lengths: tuple[int, ...], *, classes: int = 2, token_types: bool = False, seed: int = 0) -> Encoded:
    """Rows of these lengths with random tokens (never the pad token) and labels."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, VOCABULARY, length).tolist() for length in lengths]
    types = [[int(place > length // 2) for place in range(length)] for length in lengths] if token_types else None
    labels = rng.integers(0, classes, len(lengths))
    return Encoded(ids, types, labels, np.array(lengths, dtype=np.int64), 0)


def chosen_rows(rows: Encoded, positions: list[int]) -> Encoded:
    """The rows at these positions, in this order."""
    types = rows.token_type_ids
    return Encoded(
        [rows.input_ids[p] for p in positions],
        None if types is None else [types[p] for p in positions],
        rows.labels[positions],
        rows.lengths[positions],
        0,
    )
