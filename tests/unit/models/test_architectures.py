"""What is known of architectures, and what is said of those that are not."""

import pytest
from tiny_models import QUERY_VALUE, tiny_classifier
from torch import nn
from transformers import AutoModelForSequenceClassification, GPTNeoXConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.pytorch_utils import Conv1D

from undertow.errors import ModelError
from undertow.models.architectures import (
    check_targets,
    default_lora_targets,
    head_parameter_names,
    is_head,
    is_linear,
    is_norm,
    is_transposed,
    kind_and_projection,
    layer_index,
    linear_leaf_names,
)


@pytest.mark.parametrize("family", sorted(QUERY_VALUE))
def test_default_targets(family: str):
    model = tiny_classifier(family)
    assert list(default_lora_targets(model)) == QUERY_VALUE[family]
    check_targets(model, default_lora_targets(model))


def test_unknown_architecture_lists_its_linear_layers():
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, pad_token_id=0
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError) as caught:
        default_lora_targets(model)
    text = str(caught.value)
    assert text.startswith("The architecture 'gpt_neox' is not known")
    assert "Known are: bert, camembert," in text
    assert text.endswith(
        "--target-modules; this model has: query_key_value, dense, dense_h_to_4h, dense_4h_to_h, score."
    )
    check_targets(model, ["query_key_value", "dense"])


def test_module_without_a_configuration():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.inner = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})

    assert linear_leaf_names(Bag()) == ["first", "second"]
    with pytest.raises(ModelError, match=r"'Bag' is not known.*this model has: first, second\."):
        default_lora_targets(Bag())


def test_targets_that_match_nothing():
    with pytest.raises(ModelError) as caught:
        check_targets(tiny_classifier("bert"), ["query", "q_proj", "v_proj"])
    assert str(caught.value) == (
        "No linear layer is called 'q_proj', 'v_proj'. --target-modules takes the last part of a layer's name; this "
        "model has: query, key, value, dense, classifier."
    )


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("bert.encoder.layer.11.attention.self.query", 11),
        ("model.layers.0.self_attn.q_proj", 0),
        ("transformer.h.3.attn.c_attn", 3),
        ("encoder.block.7.layer", 7),
        ("layers.2", 2),
        ("classifier.dense", None),
        ("bert.pooler.dense", None),
        ("my_layers.4.x", None),
    ],
)
def test_layer_index(path: str, index: int | None):
    assert layer_index(path) == index


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        ("bert.encoder.layer.0.attention.output.dense", ("attention", "output")),
        ("bert.encoder.layer.0.output.dense", ("mlp", "down")),
        ("bert.encoder.layer.0.intermediate.dense", ("mlp", "up")),
        ("distilbert.transformer.layer.0.ffn.lin1", ("mlp", "up")),
        ("distilbert.transformer.layer.0.attention.out_lin", ("attention", "output")),
        ("deberta.encoder.layer.0.attention.self.value_proj", ("attention", "value")),
        ("mpnet.encoder.layer.0.attention.attn.q", ("attention", "query")),
        ("model.layers.0.mlp.gate_proj", ("mlp", "gate")),
        ("model.layers.0.self_attn.k_proj", ("attention", "key")),
        ("model.layers.0.somewhere.odd", ("other", "odd")),
        ("classifier.out_proj", ("head", "out_proj")),
        ("score", ("head", "score")),
        ("transformer.h.0.attn.c_attn", ("attention", "query_key_value")),
        ("transformer.h.0.attn.c_proj", ("attention", "output")),
        ("transformer.h.0.mlp.c_fc", ("mlp", "up")),
        ("transformer.h.0.mlp.c_proj", ("mlp", "down")),
        ("model.layers.0.self_attn.qkv_proj", ("attention", "query_key_value")),
        ("model.layers.0.mlp.gate_up_proj", ("mlp", "gate_up")),
        ("model.decoder.layers.0.self_attn.out_proj", ("attention", "output")),
        ("model.decoder.layers.0.fc1", ("mlp", "up")),
        ("bert.pooler.dense", ("head", "dense")),
        ("lm_head", ("other", "lm_head")),
    ],
)
def test_kind_and_projection(path: str, meaning: tuple[str, str]):
    assert kind_and_projection(path) == meaning


@pytest.mark.parametrize(
    ("module", "linear", "transposed", "norm"),
    [
        (nn.Linear(3, 2), True, False, False),
        (Conv1D(2, 3), True, True, False),
        (nn.LayerNorm(3), False, False, True),
        (nn.LayerNorm(3, bias=False), False, False, True),
        (nn.RMSNorm(3), False, False, True),
        (Gemma2RMSNorm(3), False, False, True),
        (nn.LayerNorm((3, 2)), False, False, False),
        (nn.RMSNorm(3, elementwise_affine=False), False, False, False),
        (nn.Embedding(3, 2), False, False, False),
        (nn.ModuleDict({"norm": nn.LayerNorm(3)}), False, False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_sorts_of_modules(module: nn.Module, linear: bool, transposed: bool, norm: bool):
    assert is_linear(module) == linear
    assert is_transposed(module) == transposed
    assert is_norm(module) == norm


def test_heads():
    assert is_head("classifier.dense")
    assert is_head("score")
    assert not is_head("model.layers.0.score")  # inside a layer
    assert not is_head("classifiers")
    assert is_head("bert.pooler.dense")  # its first layer
    names = ["model.embed_tokens.weight", "classifier.weight", "classifier.bias", "model.layers.1.score.weight"]
    assert head_parameter_names(names) == ["classifier.weight", "classifier.bias"]
