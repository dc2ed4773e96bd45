"""Names and places of tracked modules, architecture by architecture."""

import pytest
from tiny_models import adapted_classifier, tiny_classifier, with_lora

from undertow.models.keys import ModuleKey
from undertow.models.modules import tracked_modules

# Path of layer 0 or 1, its query and value projections, and the head: (name, projection, parameters).
# LoRA of rank 3 on 16 hidden units; decoders share one key/value head of 8 units. Heads of two classes.
BERT_LIKE = ("encoder.layer.{}.attention.self.query", "encoder.layer.{}.attention.self.value")
DECODER = ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.v_proj")
PLACES = {
    "bert": (*(f"bert.{p}" for p in BERT_LIKE), 48, [("classifier", "classifier", 34)]),
    "roberta": (
        *(f"roberta.{p}" for p in BERT_LIKE),
        48,
        [("classifier.dense", "dense", 272), ("classifier.out_proj", "out_proj", 34)],
    ),
    "distilbert": (
        "distilbert.transformer.layer.{}.attention.q_lin",
        "distilbert.transformer.layer.{}.attention.v_lin",
        48,
        [("pre_classifier", "pre_classifier", 272), ("classifier", "classifier", 34)],
    ),
    **dict.fromkeys(("llama", "qwen2", "mistral"), (*DECODER, 24, [("score", "score", 32)])),
}


@pytest.mark.parametrize("family", sorted(PLACES))
def test_query_value_and_head(family: str):
    query, value, value_size, head = PLACES[family]
    expected = []
    for layer in (0, 1):
        for path, projection, b_size in ((query, "query", 48), (value, "value", value_size)):
            place = path.format(layer)
            expected.append(ModuleKey(f"{place}.lora_A", layer, projection, "lora_A", "attention", 48))
            expected.append(ModuleKey(f"{place}.lora_B", layer, projection, "lora_B", "attention", b_size))
    expected += [ModuleKey(name, None, projection, "weight", "head", size) for name, projection, size in head]
    assert [m.key for m in tracked_modules(adapted_classifier(family))] == expected


@pytest.mark.parametrize("family", sorted(PLACES))
def test_without_an_adapter_the_head_is_left(family: str):
    head = PLACES[family][3]
    expected = [ModuleKey(name, None, projection, "weight", "head", size) for name, projection, size in head]
    assert [m.key for m in tracked_modules(tiny_classifier(family))] == expected


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "qwen2", "mistral"])
def test_all_linear_layers(family: str):
    keys = [m.key for m in tracked_modules(adapted_classifier(family, targets="all-linear"))]
    names = [k.name for k in keys]
    assert len(set(names)) == len(names)
    assert not any(wrapper in name for name in names for wrapper in ("base_model", "default", "modules_to_save"))
    attention = {(k.kind, k.projection) for k in keys if k.layer is not None}
    mlp = {"up", "down"} if family in ("bert", "roberta") else {"gate", "up", "down"}
    assert attention == {("attention", p) for p in ("query", "key", "value", "output")} | {("mlp", p) for p in mlp}
    for layer in (0, 1):
        sides = [k.side for k in keys if k.layer == layer]
        assert sides.count("lora_A") == sides.count("lora_B") == len(sides) / 2 == 4 + len(mlp)
    # Only what stands outside the layers is of no known kind: the pooler of one of these.
    others = {k.name.rsplit(".", 1)[0] for k in keys if k.kind == "other"}
    assert others == ({"bert.pooler.dense"} if family == "bert" else set())


def test_tracked_modules_are_those_of_the_model():
    model = adapted_classifier("roberta")
    inside = {id(m) for m in model.modules()}
    for tracked in tracked_modules(model):
        assert id(tracked.module) in inside
        assert tracked.key.size == sum(p.numel() for p in tracked.module.parameters())
    # The head that is trained, not the copy of it that the adapter keeps.
    heads = [m.module for m in tracked_modules(model) if m.key.kind == "head"]
    assert all(p.requires_grad for head in heads for p in head.parameters())


def test_more_layers():
    layers = [m.key.layer for m in tracked_modules(adapted_classifier("llama", layers=12))]
    assert layers == [layer for layer in range(12) for _ in range(4)] + [None]


def test_another_adapter_name_does_not_show():
    named = with_lora(tiny_classifier("bert"), ["query", "value"], adapter_name="mine")
    assert [m.key for m in tracked_modules(named)] == [m.key for m in tracked_modules(adapted_classifier("bert"))]
