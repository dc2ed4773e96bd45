"""Collecting gradients of tiny models, and comparing them with what they are to be."""

from collections.abc import Sequence

import numpy as np
import torch
from tiny_models import PAD
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch
from undertow.gradients.collect import collect_gradients, predictions
from undertow.gradients.layouts import Layout, plan_layouts
from undertow.gradients.store import GradientStore
from undertow.models.modules import TrackedModule, tracked_modules

from .reference import Reference

# Modules that compute in float32 whatever their weights are; all else is compared at the accuracy of float64.
FLOAT64, FLOAT32 = 1e-9, 2e-6


def planned(
    model: nn.Module, rows: Encoded, track: Sequence[str] = ("auto",), **options: object
) -> tuple[tuple[TrackedModule, ...], tuple[Layout, ...]]:
    """Tracked modules of a model, and how their gradients are held."""
    modules = tracked_modules(model, track)
    return modules, plan_layouts(model, modules, rows, pad_id=PAD, **options)


def collected(
    model: nn.Module,
    rows: Encoded,
    budget: int = 60,
    *,
    track: Sequence[str] = ("auto",),
    plan_for: Encoded | None = None,
    **where: object,
) -> GradientStore:
    """A store in float64, unless told otherwise, with the gradients of all rows; planned for others where given."""
    modules, layouts = planned(model, plan_for or rows, track)
    store = GradientStore(layouts, rows, **{"dtype": torch.float64, **where})
    collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=budget)
    return store


def padded(rows: Encoded) -> dict[str, Tensor]:
    """All rows as one batch."""
    return {name: torch.from_numpy(a) for name, a in pad_batch(rows, np.arange(len(rows)), PAD).items()}


def dense(store: GradientStore, module: int) -> Tensor:
    """Gradients [n, size] of a module, in whatever form they are held."""
    return store[module].rows(slice(0, store.samples))


def assert_same(store: GradientStore, expected: dict[str, Tensor], rtol: float = FLOAT64) -> None:
    """Equal names; gradients, squared norms and sums that differ by at most ``rtol`` of the module's largest."""
    assert {key.name for key in store.keys} == set(expected)
    for position, key in enumerate(store.keys):
        wanted, found = expected[key.name], store[position]
        scale = float(wanted.abs().max())
        assert scale > 1e-8, f"{key.name}: a test on zero gradients says nothing"
        assert key.size == found.size == wanted.shape[1], key.name
        torch.testing.assert_close(dense(store, position), wanted, rtol=0, atol=rtol * scale, msg=key.name)
        squares, sums = wanted.square().sum(1), wanted.sum(1)
        torch.testing.assert_close(found.squares, squares, rtol=0, atol=4 * rtol * float(squares.max()), msg=key.name)
        bound = rtol * float(wanted.abs().sum(1).max())
        torch.testing.assert_close(found.sums, sums, rtol=0, atol=bound, msg=key.name)


def assert_predictions(store: GradientStore, expected: Reference, rtol: float = FLOAT64) -> None:
    """Losses, probabilities and predicted classes of the same pass."""
    found = predictions(store)
    np.testing.assert_allclose(found.loss, expected.loss.numpy(), rtol=rtol)
    np.testing.assert_allclose(found.probabilities, expected.probabilities.numpy(), rtol=rtol)
    np.testing.assert_array_equal(found.predicted, expected.probabilities.argmax(1).numpy())
