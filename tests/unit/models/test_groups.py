"""Selecting modules by layer expressions."""

import pytest
from tiny_models import adapted_classifier, tiny_classifier

from undertow.errors import ConfigError
from undertow.models.groups import GROUPS, PROFILE_GROUPS, available_groups, check_layers, select_modules
from undertow.models.keys import ModuleKey
from undertow.models.modules import tracked_modules


def keys(layers: int, *, mlp: bool = False) -> list[ModuleKey]:
    """LoRA on query and value (and a gate) of some layers, and a head."""
    found = []
    for layer in range(layers):
        for projection in ("query", "value"):
            for side in ("lora_A", "lora_B"):
                name = f"layers.{layer}.{projection}.{side}"
                found.append(ModuleKey(name, layer, projection, side, "attention", 4))
        if mlp:
            found.append(ModuleKey(f"layers.{layer}.gate.lora_A", layer, "gate", "lora_A", "mlp", 4))
    return [*found, ModuleKey("score", None, "score", "weight", "head", 8)]


def with_frozen_parts(layers: int) -> list[ModuleKey]:
    """The same with word embeddings in front, and a norm in each layer, neither of them trained."""
    words = ModuleKey("embed", None, "embed", "weight", "embedding", 100, trained=False)
    norms = [ModuleKey(f"layers.{i}.norm", i, "norm", "weight", "norm", 4, trained=False) for i in range(layers)]
    return [words, *keys(layers), *norms]


def layers_of(some: list[ModuleKey], expression: str) -> list[int | None]:
    return sorted({-1 if (layer := some[i].layer) is None else layer for i in select_modules(some, expression)})


@pytest.mark.parametrize(
    ("expression", "layers"),
    [
        ("all", [-1, *range(8)]),
        ("head", [-1]),
        ("attention", [*range(8)]),
        ("att1", [0, 1]),
        ("att2", [2, 3]),
        ("att3", [4, 5]),
        ("att4", [6, 7]),
        ("early", [0, 1, 2]),
        ("middle", [3, 4, 5]),
        ("late", [6, 7]),
        ("3", [3]),
        ("0-7", [*range(8)]),
        ("6-20", [6, 7]),
        ("0,head", [-1, 0]),
        (" att1 , att4,2 ", [0, 1, 2, 6, 7]),
        ("head,head", [-1]),
    ],
)
def test_expressions(expression: str, layers: list[int]):
    check_layers(expression)
    assert layers_of(keys(8), expression) == layers


@pytest.mark.parametrize("group", ["query", "value"])
def test_projections(group: str):
    some = keys(3)
    assert {some[i].projection for i in select_modules(some, group)} == {group}
    assert len(select_modules(some, group)) == 6


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_sides(side: str):
    some = keys(3)
    assert {some[i].side for i in select_modules(some, side)} == {side}


def test_mlp_is_not_attention():
    some = keys(8, mlp=True)
    assert {some[i].kind for i in select_modules(some, "mlp")} == {"mlp"}
    assert {some[i].kind for i in select_modules(some, "att2")} == {"attention"}
    assert {some[i].kind for i in select_modules(some, "early")} == {"attention", "mlp"}
    assert {some[i].kind for i in select_modules(some, "2-3")} == {"attention", "mlp"}


def test_module_name():
    some = keys(2)
    assert select_modules(some, "layers.1.query.lora_B") == [5]
    assert select_modules(some, "score") == [8]  # a name without a dot, too
    assert select_modules(some, "score,layers.0.query.lora_A") == [0, 8]


def test_what_fine_tuning_left_alone_is_named_on_its_own():
    some = with_frozen_parts(8)
    names = [k.name for k in some]
    assert select_modules(some, "all") == [i for i, k in enumerate(some) if k.trained]
    assert [names[i] for i in select_modules(some, "embedding")] == ["embed"]
    assert [names[i] for i in select_modules(some, "norm")] == [f"layers.{i}.norm" for i in range(8)]
    assert [names[i] for i in select_modules(some, "embedding,head")] == ["embed", "score"]
    assert select_modules(some, "all,embedding,norm") == list(range(len(some)))
    # Layers are layers, whatever stands in them.
    assert {some[i].kind for i in select_modules(some, "3")} == {"attention", "norm"}
    assert {some[i].kind for i in select_modules(some, "att1")} == {"attention"}


def test_an_embedding_that_was_trained_counts():
    some = [ModuleKey("embed", None, "embed", "weight", "embedding", 100), *keys(2)]
    assert select_modules(some, "all") == list(range(len(some)))


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (r"re:\.1\.", [f"layers.1.{p}.{s}" for p in ("query", "value") for s in ("lora_A", "lora_B")]),
        (r"re:^layers\.[02]\.value\.lora_A$", ["layers.0.value.lora_A", "layers.2.value.lora_A"]),
        ("re:score", ["score"]),
        ("re:^sc,0-0", [*(f"layers.0.{p}.{s}" for p in ("query", "value") for s in ("lora_A", "lora_B")), "score"]),
        ("re:3-7|score", ["score"]),  # no range, whatever it looks like
    ],
)
def test_regular_expressions(expression: str, names: list[str]):
    some = keys(3)
    check_layers(expression)
    assert [some[i].name for i in select_modules(some, expression)] == names


@pytest.mark.parametrize("expression", ["re:(", "head,re:layers\\.[0", "re:(a,b)"])
def test_bad_regular_expressions(expression: str):
    with pytest.raises(ConfigError, match=r"is not a regular expression: .*\. A comma separates groups\."):
        check_layers(expression)
    with pytest.raises(ConfigError, match="is not a regular expression"):
        select_modules(keys(2), expression)


def test_regular_expression_that_finds_nothing():
    with pytest.raises(ConfigError, match=r"--layers re:nowhere selects none of the 9 tracked modules"):
        select_modules(keys(2), "re:nowhere")


def test_functions():
    some = with_frozen_parts(2)
    assert select_modules(some, lambda key: key.size > 4) == [0, 9]
    assert select_modules(some, lambda key: True) == list(range(len(some)))
    with pytest.raises(ConfigError, match="The function given for the layers selects none of the 12 tracked"):
        select_modules(some, lambda key: key.layer == 7)


@pytest.mark.parametrize("name", ["score", "classifier", "pre_classifier"])
def test_heads_by_their_name(name: str):
    # Without a dot, before any model is loaded; whether there is one is known afterwards.
    check_layers(name)
    some = [*keys(2)[:-1], ModuleKey(name, None, name, "weight", "head", 8)]
    assert select_modules(some, name) == [8]
    with pytest.raises(ConfigError, match=f"--layers {name} selects none"):
        select_modules(keys(2)[:-1], name)


def test_positions_ascend_and_do_not_repeat():
    some = keys(4)
    assert select_modules(some, "late,early,all,query") == list(range(len(some)))


@pytest.mark.parametrize("layers", range(1, 37))
def test_parts_cover_the_layers_once(layers: int):
    some = keys(layers)
    for parts in (("att1", "att2", "att3", "att4"), ("early", "middle", "late")):
        held = available_groups(some, parts)
        covered = [i for positions in held.values() for i in positions]
        assert sorted(covered) == list(range(4 * layers))
        # In order, and of sizes that differ by one layer at most.
        assert covered == sorted(covered)
        if layers >= len(parts):
            sizes = [len(positions) // 4 for positions in held.values()]
            assert len(sizes) == len(parts)
            assert max(sizes) - min(sizes) <= 1


def test_the_quarters_of_the_paper():
    some = keys(32)
    assert [layers_of(some, f"att{q}") for q in (1, 2, 3, 4)] == [
        list(range(start, start + 8)) for start in (0, 8, 16, 24)
    ]


def test_groups_of_a_real_model():
    some = [m.key for m in tracked_modules(adapted_classifier("llama", layers=4))]
    held = available_groups(some)
    assert tuple(held) == PROFILE_GROUPS
    assert [len(positions) for positions in held.values()] == [1, 4, 4, 4, 4, 1, 17]
    assert [some[i].name for i in held["embedding"]] == ["model.embed_tokens"]
    assert not set(held["embedding"]) & set(held["all"])


def test_groups_of_a_model_without_an_adapter():
    some = [m.key for m in tracked_modules(tiny_classifier("bert", layers=4))]
    held = available_groups(some, [*PROFILE_GROUPS, "mlp", "norm", "early", "query", "lora_A"])
    assert {group: len(positions) for group, positions in held.items()} == {
        **{"embedding": 1, "att1": 4, "att2": 4, "att3": 4, "att4": 4, "head": 2, "all": 36},
        **{"mlp": 8, "norm": 9, "early": 16, "query": 4},
    }
    assert len(some) == 36


def test_groups_without_modules_are_left_out():
    assert set(available_groups(keys(2))) == {"att1", "att3", "head", "all"}
    assert set(available_groups(keys(0))) == {"head", "all"}


@pytest.mark.parametrize("expression", [*GROUPS, "3", "0-7", "7-7", "a.module.name", "att1,0-3,head", "re:[qv]_proj"])
def test_forms_that_are_accepted(expression: str):
    check_layers(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", r"--layers is empty\. Give one or several of: all, attention,"),
        (" , ", r"--layers is empty"),
        ("midle", r"--layers midle is not known\. Known are: all, attention, .*a range such as 0-7"),
        ("att1,att5", r"--layers att5 is not known"),
        ("7-3", r"--layers 7-3 runs backwards\. Write the smaller layer first: 3-7\."),
        ("-1", r"--layers -1 is not known"),
    ],
)
def test_forms_that_are_refused(expression: str, message: str):
    with pytest.raises(ConfigError, match=message):
        check_layers(expression)
    with pytest.raises(ConfigError, match=message):
        select_modules(keys(8), expression)


@pytest.mark.parametrize("expression", ["mlp", "8", "9-12", "key", "no.such.module", "head,mlp"])
def test_expressions_that_select_nothing(expression: str):
    part = expression.rsplit(",", 1)[-1]
    with pytest.raises(ConfigError) as caught:
        select_modules(keys(8), expression)
    assert str(caught.value) == (
        f"--layers {part} selects none of the 33 tracked modules. This model has 8 adapted layers and modules of "
        "kind attention, head; see its modules in run.json."
    )
