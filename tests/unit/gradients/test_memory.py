"""Batches that do not fit into memory, and samples that must not share a batch."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import PAD, adapted_classifier, random_rows, tiny_classifier
from torch import Tensor, nn

from undertow.gradients.collect import collect_gradients
from undertow.gradients.store import GradientStore

from .collecting import assert_same, collected, planned
from .reference import reference_gradients
from .stored import Passes

LENGTHS = (5, 2, 9, 5, 1, 12, 7)
WORDS = "bert.embeddings.word_embeddings"


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def on_the_way(model: nn.Module, limit: int, error: Callable[[], Exception]) -> None:
    """Fail in the forward pass of every batch of more than ``limit`` tokens."""

    def hook(module: nn.Module, arguments: tuple[()], named: dict[str, Tensor]) -> None:
        if named["input_ids"].numel() > limit:
            raise error()

    model.register_forward_pre_hook(hook, with_kwargs=True)


def on_the_way_back(model: nn.Module, limit: int, error: Callable[[], Exception]) -> None:
    """Fail at the end of the backward pass, when all other modules have handed over what they saw."""

    def stop(delta: Tensor) -> None:
        raise error()

    def hook(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        if arguments[0].numel() <= limit:
            return output
        output = output.detach().requires_grad_(True)
        output.register_hook(stop)
        return output

    model.get_input_embeddings().register_forward_hook(hook)


@pytest.mark.parametrize("where", [on_the_way, on_the_way_back])
@pytest.mark.parametrize(("limit", "budgets"), [(40, [42]), (20, [42, 21]), (12, [42, 21, 10])])
def test_a_budget_that_does_not_fit_is_halved(where: Callable[..., None], limit: int, budgets: list[int]):
    model, rows = adapted_classifier("bert", targets="all-linear"), random_rows(LENGTHS)
    expected = reference_gradients(model, rows).fine_tuned(WORDS)
    modules, plans = planned(model, rows)
    where(model, limit, out_of_memory)
    store, said, steps = GradientStore(plans, rows, dtype=torch.float64), [], []
    with Passes(model) as passes:
        collect_gradients(
            model, modules, rows, store, pad_id=PAD, token_budget=84, advance=steps.append, say=said.append
        )
    assert said == [
        f"The batch did not fit into memory; going on with batches of {budget} tokens." for budget in budgets
    ]
    assert sum(steps) == len(rows)
    assert max(passes.samples) > 1
    assert_same(store, expected)


def test_the_cpu_says_it_otherwise():
    model, rows = adapted_classifier("bert"), random_rows(LENGTHS)
    expected = reference_gradients(model, rows).fine_tuned(WORDS)
    modules, plans = planned(model, rows)
    text = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
    on_the_way(model, 30, lambda: RuntimeError(text))
    store, said = GradientStore(plans, rows, dtype=torch.float64), []
    collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=84, say=said.append)
    assert len(said) == 2
    assert_same(store, expected)


def test_one_sample_that_does_not_fit_is_too_much():
    model, rows = adapted_classifier("bert"), random_rows(LENGTHS)
    modules, plans = planned(model, rows)
    on_the_way(model, 10, out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        collect_gradients(model, modules, rows, GradientStore(plans, rows), pad_id=PAD, token_budget=84)


def test_other_errors_are_no_question_of_memory():
    model, rows = adapted_classifier("bert"), random_rows(LENGTHS)
    modules, plans = planned(model, rows)
    on_the_way(model, 10, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    said: list[str] = []
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        collect_gradients(
            model, modules, rows, GradientStore(plans, rows), pad_id=PAD, token_budget=84, say=said.append
        )
    assert said == []


def test_samples_that_share_an_input_are_batches_of_one():
    model, rows = tiny_classifier("deberta-v2"), random_rows(LENGTHS)
    with Passes(model) as passes:
        store = collected(model, rows, 10_000)
    assert passes.samples == [2, *[1] * len(rows)]  # two to see what modules see
    assert any(layout.shared for layout in store.layouts)
    with Passes(model) as passes:
        collected(model, rows, 10_000, track=("head", "embedding"))
    assert passes.samples == [2, len(rows)]
