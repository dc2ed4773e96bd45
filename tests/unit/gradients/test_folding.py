"""LoRA layers as one product: which ones, and that nothing else changes."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import QUERY_VALUE, adapted_classifier, random_rows
from torch import nn

from undertow.gradients.folding import fold
from undertow.gradients.hooks import capture
from undertow.models.adapted import adapted_layers
from undertow.models.modules import tracked_modules

from .collecting import collected, dense, padded


def lora_layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if hasattr(m, "lora_A") and len(m.lora_A)]


@pytest.mark.parametrize("family", list(QUERY_VALUE))
def test_every_adapted_layer_of_a_family_is_folded(family: str):
    model = adapted_classifier(family).eval()
    assert [found.layer for found in adapted_layers(model)] == lora_layers(model)
    tracked = tracked_modules(model)
    with fold(model, tracked, lambda *_: None) as served:
        assert served == {i for i, t in enumerate(tracked) if t.key.side in ("lora_A", "lora_B")}
        assert all("forward" in vars(layer) for layer in lora_layers(model))
    assert not any("forward" in vars(layer) for layer in lora_layers(model))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_logits_are_those_of_the_adapter(family: str):
    model = adapted_classifier(family).double().eval()
    batch = padded(random_rows((4, 2, 3)))
    expected = model(**batch).logits
    with capture(model, tracked_modules(model), lambda *_: None):
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-12, atol=1e-13)


def bias_in_b(layer: nn.Module) -> None:
    layer.lora_B["default"].bias = nn.Parameter(torch.ones(layer.lora_B["default"].out_features))


def variant(layer: nn.Module) -> None:
    layer.lora_variant["default"] = object()


def hooked(layer: nn.Module) -> None:
    layer.base_layer.register_forward_hook(lambda *_: None)


def replaced(layer: nn.Module) -> None:
    layer.forward = layer.forward


def narrow(layer: nn.Module) -> None:
    layer.base_layer.to(torch.bfloat16)


def dropping(layer: nn.Module) -> None:
    layer.lora_dropout["default"] = nn.Dropout(0.5)
    layer.train()


class Quantised(nn.Linear):
    """Somebody's linear layer."""


def other_class(layer: nn.Module) -> None:
    layer.base_layer.__class__ = Quantised


@pytest.mark.parametrize(
    "change", [bias_in_b, variant, hooked, replaced, narrow, dropping, other_class], ids=lambda f: f.__name__
)
def test_what_is_not_plain_is_left_as_it_is(change: Callable[[nn.Module], None]):
    model = adapted_classifier("bert").eval()
    first, *others = lora_layers(model)
    change(first)
    assert [found.layer for found in adapted_layers(model)] == others


def test_merged_and_disabled_adapters_are_left_as_they_are():
    model = adapted_classifier("bert").eval()
    model.merge_adapter()
    assert not list(adapted_layers(model))
    model.unmerge_adapter()
    assert list(adapted_layers(model))
    with model.disable_adapter():
        assert not list(adapted_layers(model))
    assert not list(adapted_layers(nn.Linear(2, 2)))


def test_a_tracked_base_layer_runs_as_it_is():
    model, rows = adapted_classifier("bert").double(), random_rows((4, 2, 3))
    with fold(model, tracked_modules(model, ("lora", "linear")), lambda *_: None) as served:
        assert served == frozenset()
    unfolded = collected(model, rows, track=("lora", "linear"))
    folded = collected(model, rows, track=("lora",))
    places = {key.name: i for i, key in enumerate(unfolded.keys)}
    for i, key in enumerate(folded.keys):
        torch.testing.assert_close(dense(folded, i), dense(unfolded, places[key.name]), rtol=1e-9, atol=1e-12)
