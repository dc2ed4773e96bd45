"""Selecting modules by layer expressions."""

import pytest
from tiny_models import adapted_classifier

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
    assert [len(positions) for positions in held.values()] == [4, 4, 4, 4, 1, 17]


def test_groups_without_modules_are_left_out():
    assert set(available_groups(keys(2))) == {"att1", "att3", "head", "all"}
    assert set(available_groups(keys(0))) == {"head", "all"}


@pytest.mark.parametrize("expression", [*GROUPS, "3", "0-7", "7-7", "a.module.name", "att1,0-3,head"])
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
