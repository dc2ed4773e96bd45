"""Names and places of tracked modules, architecture by architecture."""

import pytest
import torch
from tiny_models import QUERY_VALUE, adapted_classifier, tiny_classifier, tiny_language_model, with_lora
from torch import nn

from undertow.errors import ConfigError
from undertow.models.keys import ModuleKey
from undertow.models.modules import tracked_modules
from undertow.models.trackable import TRACKABLE

# What a layer holds, in order: (path in the layer, kind, projection, parameters). 16 hidden units, 24 in the middle;
# decoders of the newer kind have two query heads of 8 units that share one key and one value head.
BERT_LAYER = (
    ("attention.self.query", "attention", "query", 272),
    ("attention.self.key", "attention", "key", 272),
    ("attention.self.value", "attention", "value", 272),
    ("attention.output.dense", "attention", "output", 272),
    ("attention.output.LayerNorm", "norm", "LayerNorm", 32),
    ("intermediate.dense", "mlp", "up", 408),
    ("output.dense", "mlp", "down", 400),
    ("output.LayerNorm", "norm", "LayerNorm", 32),
)
DISTILBERT_LAYER = (
    ("attention.q_lin", "attention", "query", 272),
    ("attention.k_lin", "attention", "key", 272),
    ("attention.v_lin", "attention", "value", 272),
    ("attention.out_lin", "attention", "output", 272),
    ("sa_layer_norm", "norm", "sa_layer_norm", 32),
    ("ffn.lin1", "mlp", "up", 408),
    ("ffn.lin2", "mlp", "down", 400),
    ("output_layer_norm", "norm", "output_layer_norm", 32),
)
GPT2_LAYER = (
    ("ln_1", "norm", "ln_1", 32),
    ("attn.c_attn", "attention", "query_key_value", 16 * 48 + 48),
    ("attn.c_proj", "attention", "output", 272),
    ("ln_2", "norm", "ln_2", 32),
    ("mlp.c_fc", "mlp", "up", 408),
    ("mlp.c_proj", "mlp", "down", 400),
)


def separate(bias: int = 0) -> tuple[tuple[str, str, str, int], ...]:
    """Attention of separate projections, with this much of the outputs for a bias."""
    return (
        ("self_attn.q_proj", "attention", "query", 256 + 16 * bias),
        ("self_attn.k_proj", "attention", "key", 128 + 8 * bias),
        ("self_attn.v_proj", "attention", "value", 128 + 8 * bias),
        ("self_attn.o_proj", "attention", "output", 256),
    )


HEAD_NORMS = (("self_attn.q_norm", "norm", "q_norm", 8), ("self_attn.k_norm", "norm", "k_norm", 8))
FUSED = (
    ("self_attn.o_proj", "attention", "output", 256),
    ("self_attn.qkv_proj", "attention", "query_key_value", 16 * 32),
)
GATED = (
    ("mlp.gate_proj", "mlp", "gate", 384),
    ("mlp.up_proj", "mlp", "up", 384),
    ("mlp.down_proj", "mlp", "down", 384),
)
FUSED_GATED = (("mlp.gate_up_proj", "mlp", "gate_up", 768), ("mlp.down_proj", "mlp", "down", 384))


def norms(*names: str) -> tuple[tuple[str, str, str, int], ...]:
    return tuple((name, "norm", name, 16) for name in names)


TWO = norms("input_layernorm", "post_attention_layernorm")
FOUR = (*TWO, *norms("pre_feedforward_layernorm", "post_feedforward_layernorm"))

# By family: where its layers are and what they hold.
LAYERS = {
    "bert": ("bert.encoder.layer", BERT_LAYER),
    "roberta": ("roberta.encoder.layer", BERT_LAYER),
    "distilbert": ("distilbert.transformer.layer", DISTILBERT_LAYER),
    "deberta-v2": (
        "deberta.encoder.layer",
        tuple((f"{p}_proj" if ".self." in p else p, *rest) for p, *rest in BERT_LAYER),
    ),
    "gpt2": ("transformer.h", GPT2_LAYER),
    "llama": ("model.layers", (*separate(), *GATED, *TWO)),
    "qwen2": ("model.layers", (*separate(bias=1), *GATED, *TWO)),
    "qwen3": ("model.layers", (*separate(), *HEAD_NORMS, *GATED, *TWO)),
    "mistral": ("model.layers", (*separate(), *GATED, *TWO)),
    "gemma2": ("model.layers", (*separate(), *GATED, *FOUR)),
    "phi3": ("model.layers", (*FUSED, *FUSED_GATED, *TWO)),
}
DENSE = ("classifier.dense", "head", "dense", 272)
POOLER, CLASSIFIER = ("pooler.dense", "head", "dense", 272), ("classifier", "head", "classifier", 34)
DECODER_ENDS = (
    (("model.embed_tokens", "embedding", "embed_tokens", 800),),
    (("model.norm", "norm", "norm", 16), ("score", "head", "score", 32)),
)


def encoder_start(name: str) -> tuple[tuple[str, str, str, int], ...]:
    return (
        (f"{name}.embeddings.word_embeddings", "embedding", "word_embeddings", 800),
        (f"{name}.embeddings.LayerNorm", "norm", "LayerNorm", 32),
    )


# What stands in front of the layers and behind them.
ENDS = {
    "bert": (encoder_start("bert"), ((f"bert.{POOLER[0]}", *POOLER[1:]), CLASSIFIER)),
    "roberta": (encoder_start("roberta"), (DENSE, ("classifier.out_proj", "head", "out_proj", 34))),
    "distilbert": (
        encoder_start("distilbert"),
        (("pre_classifier", "head", "pre_classifier", 272), CLASSIFIER),
    ),
    "deberta-v2": (
        encoder_start("deberta"),
        (("deberta.encoder.LayerNorm", "norm", "LayerNorm", 32), POOLER, CLASSIFIER),
    ),
    "gpt2": (
        (("transformer.wte", "embedding", "wte", 800),),
        (("transformer.ln_f", "norm", "ln_f", 32), ("score", "head", "score", 32)),
    ),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3"), DECODER_ENDS),
}
FAMILIES = sorted(LAYERS)
OPERATIONS = {"norm": "norm", "embedding": "embedding"}


def every_key(family: str) -> list[ModuleKey]:
    """All modules of a model without an adapter, in its order."""
    place, layer = LAYERS[family]
    before, after = ENDS[family]
    found = [ModuleKey(name, None, what, "weight", kind, size) for name, kind, what, size in before]
    for index in (0, 1):
        found += [
            ModuleKey(f"{place}.{index}.{name}", index, what, "weight", kind, size) for name, kind, what, size in layer
        ]
    return found + [ModuleKey(name, None, what, "weight", kind, size) for name, kind, what, size in after]


def lora_of(key: ModuleKey, family: str) -> list[ModuleKey]:
    """LoRA of rank 3 on a linear layer."""
    inputs = 24 if key.projection == "down" else 16
    biased = family in ("bert", "roberta", "distilbert", "deberta-v2", "gpt2") or (
        family == "qwen2" and key.projection in ("query", "key", "value")
    )
    outputs = key.size // (inputs + biased)
    return [
        ModuleKey(f"{key.name}.{side}", key.layer, key.projection, side, key.kind, 3 * width)
        for side, width in (("lora_A", inputs), ("lora_B", outputs))
    ]


def trained_head(family: str) -> list[ModuleKey]:
    """What an adapter trains whole; a pooler is not part of it."""
    return [k for k in every_key(family) if k.kind == "head" and "pooler" not in k.name]


def frozen(key: ModuleKey) -> ModuleKey:
    return ModuleKey(key.name, key.layer, key.projection, key.side, key.kind, key.size, trained=False)


def keys_of(model: nn.Module, *track: str) -> list[ModuleKey]:
    return [m.key for m in (tracked_modules(model, track) if track else tracked_modules(model))]


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_of_a_model_without_an_adapter(family: str):
    model = tiny_classifier(family)
    modules = tracked_modules(model)
    assert [m.key for m in modules] == every_key(family)
    for tracked in modules:
        assert tracked.module is model.get_submodule(tracked.path)
        assert tracked.operation == OPERATIONS.get(tracked.key.kind, "linear")
        assert tracked.transposed == (family == "gpt2" and tracked.key.kind in ("attention", "mlp"))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_on_query_and_value(family: str):
    everything = every_key(family)
    targets = [k for k in everything if k.projection in ("query", "value", "query_key_value")]
    expected = [frozen(k) for k in everything if k.kind == "embedding"]
    expected += [side for key in targets for side in lora_of(key, family)]
    assert keys_of(adapted_classifier(family)) == expected + trained_head(family)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "distilbert"])  # peft cannot, for its head
def test_lora_on_all_linear_layers(family: str):
    everything = every_key(family)
    heads = trained_head(family)
    expected: list[ModuleKey] = []
    for key in everything:
        if key.kind == "embedding":
            expected.append(frozen(key))
        elif key in heads:
            expected.append(key)
        elif key.kind != "norm":
            expected += lora_of(key, family)
    assert keys_of(adapted_classifier(family, targets="all-linear")) == expected


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2", "qwen3"])
def test_choices_of_what_is_tracked(family: str):
    everything, model = every_key(family), tiny_classifier(family)
    sorts = {
        "lora": [],
        "head": [k for k in everything if k.kind == "head"],
        "linear": [k for k in everything if k.kind in ("attention", "mlp")],
        "norm": [k for k in everything if k.kind == "norm"],
        "embedding": [k for k in everything if k.kind == "embedding"],
    }
    assert set(sorts) == set(TRACKABLE)
    for name, expected in sorts.items():
        if expected:
            assert keys_of(model, name) == expected
    assert keys_of(model, *TRACKABLE) == keys_of(model, "auto", "norm") == everything
    both = sorts["head"] + sorts["norm"]
    assert keys_of(model, "norm", "head") == [k for k in everything if k in both]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2", "qwen3"])
def test_choices_beside_an_adapter(family: str):
    model, everything, heads = adapted_classifier(family), every_key(family), trained_head(family)
    assert keys_of(model, "head") == heads
    assert keys_of(model, "lora") == [k for k in keys_of(model) if k.side != "weight"]
    assert keys_of(model, "norm") == [frozen(k) for k in everything if k.kind == "norm"]
    # Frozen linear layers, those under an adapter and a pooler in front of a trained head included.
    linear = [k for k in everything if k.kind in ("attention", "mlp", "head") and k not in heads]
    assert keys_of(model, "linear") == [frozen(k) for k in linear]
    assert keys_of(model) == keys_of(model, "lora", "head", "embedding")
    assert set(keys_of(model, "auto", "norm")) == {*keys_of(model), *keys_of(model, "norm")}


def test_order_is_that_of_the_model():
    # The head stands last whatever is named first, and a frozen layer beside its adapter.
    names = [k.name for k in keys_of(adapted_classifier("llama"), "head", "linear", "lora", "embedding", "norm")]
    assert names[0] == "model.embed_tokens"
    assert names[-1] == "score"
    place = names.index("model.layers.0.self_attn.q_proj")
    q = "model.layers.0.self_attn.q_proj"
    assert names[place : place + 3] == [q, f"{q}.lora_A", f"{q}.lora_B"]


@pytest.mark.parametrize(("track", "came"), [(("lora", "heads"), "'heads'"), (("A", "B"), "'A', 'B'"), ((), "nothing")])
def test_unknown_choices(track: tuple[str, ...], came: str):
    with pytest.raises(ConfigError, match=rf"--track got {came}\. Known are: auto, lora, head, linear, norm, emb"):
        tracked_modules(tiny_classifier("bert"), track)


def test_modules_trained_whole_beside_an_adapter():
    names = ["pooler", "word_embeddings", "LayerNorm"]
    keys = keys_of(with_lora(tiny_classifier("bert"), QUERY_VALUE["bert"], modules_to_save=names))
    everything = every_key("bert")
    saved = [k for k in everything if k.kind in ("norm", "embedding", "head")]
    assert [k for k in keys if k.side == "weight"] == saved
    assert all(k.trained for k in keys)
    assert not any(wrapper in k.name for k in keys for wrapper in ("base_model", "default", "modules_to_save"))


@pytest.mark.parametrize("family", ["roberta", "qwen3"])
def test_tracked_modules_are_those_that_run(family: str):
    model = adapted_classifier(family)
    inside = dict(model.named_modules())
    for tracked in tracked_modules(model, ("auto", "linear", "norm")):
        assert inside[tracked.path] is tracked.module
        assert tracked.key.size == sum(p.numel() for p in tracked.module.parameters(recurse=False))
        trained = {p.requires_grad for p in tracked.module.parameters(recurse=False)}
        assert trained == {tracked.key.trained}, tracked.path
        assert "original_module" not in tracked.path


def test_more_layers():
    layers = [k.layer for k in keys_of(adapted_classifier("llama", layers=12), "lora", "head")]
    assert layers == [layer for layer in range(12) for _ in range(4)] + [None]


def test_another_adapter_name_does_not_show():
    named = with_lora(tiny_classifier("bert"), ["query", "value"], adapter_name="mine")
    assert keys_of(named) == keys_of(adapted_classifier("bert"))


def test_the_output_side_of_tied_embeddings_is_a_linear_layer():
    keys = keys_of(tiny_language_model("llama"))
    assert (keys[0].name, keys[0].kind, keys[0].size) == ("model.embed_tokens", "embedding", 800)
    assert (keys[-1].name, keys[-1].kind, keys[-1].size) == ("lm_head", "other", 800)


def test_modules_that_are_no_norm_of_channels():
    class Scaled(nn.Module):
        """Has a weight for each channel, and is no norm."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    class DoubleNorm(nn.LayerNorm):
        """Has a parameter beside scale and bias."""

        def __init__(self) -> None:
            super().__init__(4)
            self.gate = nn.Parameter(torch.ones(4))

    bag = nn.ModuleDict(
        {
            "scaled": Scaled(),
            "twofold": DoubleNorm(),
            "square": nn.LayerNorm((2, 2)),
            "blank": nn.LayerNorm(4, elementwise_affine=False),
            "norm": nn.LayerNorm(4),
            "bare": nn.RMSNorm(4),
        }
    )
    assert [k.name for k in keys_of(bag)] == ["norm", "bare"]
