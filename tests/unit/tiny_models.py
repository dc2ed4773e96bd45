"""Tiny classifiers and language models with random weights, and rows of token ids for them."""

import warnings

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)
from transformers.pytorch_utils import Conv1D

from undertow.data.tokenize import Encoded

VOCABULARY, WIDTH, PAD = 50, 16, 0
QUERY_VALUE = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "deberta-v2": ["query_proj", "value_proj"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
    "qwen3": ["q_proj", "v_proj"],
    "mistral": ["q_proj", "v_proj"],
    "gemma2": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],
}

_ENCODERS = {"bert": BertConfig, "roberta": RobertaConfig, "deberta-v2": DebertaV2Config}
_DECODERS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma2": Gemma2Config,
    "phi3": Phi3Config,
}
# What makes a family itself, where its defaults do not fit into 16 hidden units.
_OWN: dict[str, dict[str, object]] = {
    "deberta-v2": {
        "relative_attention": True,
        "share_att_key": True,
        "position_buckets": 4,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "pooler_hidden_size": WIDTH,
    },
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 4},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
}


def tiny_config(family: str, *, classes: int = 2, layers: int = 2) -> PreTrainedConfig:
    """A configuration of 16 hidden units, two attention heads and 50 tokens, of which 0 pads."""
    common = {"vocab_size": VOCABULARY, "num_labels": classes, "pad_token_id": PAD}
    if family == "distilbert":
        return DistilBertConfig(
            **common, max_position_embeddings=40, dim=WIDTH, n_layers=layers, n_heads=2, hidden_dim=24
        )
    ends = {"bos_token_id": 1, "eos_token_id": 2}  # inside the vocabulary
    if family == "gpt2":
        return GPT2Config(**common, **ends, n_positions=40, n_embd=WIDTH, n_layer=layers, n_head=2, n_inner=24)
    sizes = {"num_hidden_layers": layers, "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}
    common |= {"max_position_embeddings": 40, **sizes, **_OWN.get(family, {})}
    if family in _ENCODERS:
        return _ENCODERS[family](**common)
    return _DECODERS[family](**common, **ends, num_key_value_heads=1)


def tiny_classifier(family: str, *, classes: int = 2, layers: int = 2, seed: int = 0) -> nn.Module:
    """A classifier in float64 and eval mode whose weights, biases included, are all random."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config(family, classes=classes, layers=layers))
    return shaken(model.double().eval())


def tiny_language_model(family: str, *, tied: bool = True, seed: int = 0) -> nn.Module:
    """A causal language model in float64 and eval mode; ``tied`` makes its embeddings its output layer, too."""
    torch.manual_seed(seed)
    config = tiny_config(family)
    config.tie_word_embeddings = tied
    return shaken(AutoModelForCausalLM.from_config(config).double().eval())


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
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # peft warns where it is not told
    options = {"task_type": TaskType.SEQ_CLS, "fan_in_fan_out": transposed, **options}
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options)
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
