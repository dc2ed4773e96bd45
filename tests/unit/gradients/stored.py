"""A store of gradients in all three forms, and how to fill and compare it."""

from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_models import PAD, adapted_classifier, random_rows
from torch import Tensor, nn

from undertow.data.tokenize import Encoded
from undertow.gradients import layouts
from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import Layout
from undertow.gradients.store import GradientStore
from undertow.models.modules import TrackedModule

from .collecting import planned

IDENTITY = {"model": "abc", "pad": 0}
LENGTHS = (5, 2, 9, 5, 1, 12, 7, 3)
BUDGET = 20
BATCHES = 4  # of the samples under that budget


@cache
def case() -> tuple[nn.Module, tuple[TrackedModule, ...], tuple[Layout, ...], Encoded]:
    """A model whose gradients are held in all three forms, in float32."""
    model, rows = adapted_classifier("bert", targets="all-linear").float(), random_rows(LENGTHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "LARGE", 60)
        patch.setattr(layouts, "SMALL", 50)
        modules, plans = planned(model, rows)
    assert {layout.form for layout in plans} == {"dense", "factored", "sparse"}
    return model, modules, plans, rows


def fill(store: GradientStore, **options: object) -> GradientStore:
    model, modules, _, rows = case()
    collect_gradients(model, modules, rows, store, pad_id=PAD, **{"token_budget": BUDGET, **options})
    return store


def opened(folder: Path | None, rows: Encoded | None = None, **options: object) -> GradientStore:
    _, _, plans, own = case()
    return GradientStore(plans, rows or own, **{"folder": folder, "identity": IDENTITY, **options})


@cache
def whole() -> GradientStore:
    """All gradients, collected at once in memory."""
    return fill(opened(None))


def arrays(store: GradientStore) -> dict[str, Tensor]:
    """Everything that a store holds, by name."""
    found = {"loss": store.loss, "probabilities": store.probabilities, "done": store.done}
    for i, key in enumerate(store.keys):
        matrix = store[i]
        for name in ("values", "inputs", "deltas"):
            if hasattr(matrix, name):
                found[f"{key.name} {name}"] = getattr(matrix, name)
    return found


def assert_equal(found: GradientStore, expected: GradientStore) -> None:
    """The same, bit for bit."""
    left, right = arrays(found), arrays(expected)
    assert set(left) == set(right)
    for name, values in right.items():
        assert torch.equal(left[name], values), name
        assert name == "done" or float(values.abs().sum()) > 0, name


class Passes:
    """Counts the forward passes of a model, and how many samples each has; may stop at one of them."""

    def __init__(self, model: nn.Module, stop: int | None = None, error: Exception | None = None) -> None:
        self.samples: list[int] = []
        self.stop, self.error = stop, error
        self.handle = model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module: nn.Module, arguments: tuple[()], named: dict[str, Tensor]) -> None:
        if len(self.samples) == self.stop and self.error is not None:
            raise self.error
        self.samples.append(len(named["input_ids"]))

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
