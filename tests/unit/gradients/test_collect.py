"""Gradients of a batch against batch size one, for every family of models."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from tiny_models import (
    PAD,
    QUERY_VALUE,
    adapted_classifier,
    chosen_rows,
    random_rows,
    tiny_classifier,
    with_lora,
)
from torch import nn

from undertow.data.tokenize import Encoded
from undertow.errors import ModelError, TrainingError
from undertow.gradients.collect import Predictions, collect_gradients, predict
from undertow.gradients.store import GradientStore
from undertow.models.modules import tracked_modules

from .reference import Reference, reference_gradients

FAMILIES = ("bert", "roberta", "llama", "qwen2", "mistral")
LENGTHS = (5, 2, 9, 5, 1, 12, 7)
# One row a batch; two or three; everything at once.
BUDGETS = (1, 20, 10_000)


def collected(model: nn.Module, rows: Encoded, budget: int = 60, **where: object) -> tuple[GradientStore, Predictions]:
    modules = tracked_modules(model)
    store = GradientStore([m.key for m in modules], len(rows), dtype=torch.float64, **where)
    return store, collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=budget)


def assert_same(store: GradientStore, expected: dict[str, torch.Tensor], rtol: float = 1e-9) -> None:
    """Equal names, and values that differ by at most ``rtol`` of the largest value of the module."""
    assert {key.name for key in store.keys} == set(expected)
    for position, key in enumerate(store.keys):
        scale = float(expected[key.name].abs().max())
        assert scale > 1e-8, f"{key.name}: a test on zero gradients says nothing"
        assert key.size == expected[key.name].shape[1]
        torch.testing.assert_close(store[position], expected[key.name], rtol=0, atol=rtol * scale, msg=key.name)


def assert_predictions(found: Predictions, expected: Reference) -> None:
    np.testing.assert_allclose(found.loss, expected.loss.numpy(), rtol=1e-9)
    np.testing.assert_allclose(found.probabilities, expected.probabilities.numpy(), rtol=1e-9)
    np.testing.assert_array_equal(found.predicted, expected.probabilities.argmax(1).numpy())


@cache
def case(family: str, everywhere: bool) -> tuple[nn.Module, Encoded, Reference]:
    model = adapted_classifier(family, targets="all-linear" if everywhere else QUERY_VALUE[family])
    rows = random_rows(LENGTHS)
    return model, rows, reference_gradients(model, rows)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("everywhere", [False, True], ids=["query+value", "all linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_batch_size_one(family: str, everywhere: bool, budget: int):
    model, rows, expected = case(family, everywhere)
    store, predictions = collected(model, rows, budget)
    assert_same(store, expected.gradients)
    assert_predictions(predictions, expected)


def test_distilbert_has_a_head_of_two_layers():
    model = adapted_classifier("distilbert")
    rows = random_rows(LENGTHS)
    expected = reference_gradients(model, rows)
    assert {"pre_classifier", "classifier"} <= set(expected.gradients)
    assert_same(collected(model, rows)[0], expected.gradients)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_model_without_an_adapter_is_tracked_by_its_head(family: str):
    model, rows = tiny_classifier(family), random_rows(LENGTHS)
    expected = reference_gradients(model, rows)
    assert len(expected.gradients) == 1
    assert_same(collected(model, rows)[0], expected.gradients)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("budget", BUDGETS[1:])
def test_order_of_the_rows_carries_over(family: str, budget: int):
    model, rows, expected = case(family, False)
    order = [3, 6, 0, 5, 1, 4, 2]
    store, predictions = collected(model, chosen_rows(rows, order), budget)
    assert_same(store, {name: values[order] for name, values in expected.gradients.items()})
    np.testing.assert_allclose(predictions.loss, expected.loss[order].numpy(), rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_longer_neighbours_change_nothing(family: str):
    model = adapted_classifier(family)
    rows = random_rows((3, 4, 30, 38))
    short = chosen_rows(rows, [0, 1])
    alone, _ = collected(model, short, 10_000)
    padded, _ = collected(model, rows, 10_000)
    for position, key in enumerate(alone.keys):
        scale = float(alone[position].abs().max())
        torch.testing.assert_close(
            padded[position][:2], alone[position], rtol=0, atol=1e-9 * scale, msg=f"{family} {key.name}"
        )


@pytest.mark.parametrize("budget", BUDGETS[1:])
def test_token_types(budget: int):
    model = adapted_classifier("bert")
    typed, plain = random_rows(LENGTHS, token_types=True), random_rows(LENGTHS)
    expected = reference_gradients(model, typed)
    assert_same(collected(model, typed, budget)[0], expected.gradients)
    without = reference_gradients(model, plain).gradients
    assert any(not torch.allclose(without[name], values) for name, values in expected.gradients.items())


@pytest.mark.parametrize("family", ["roberta", "mistral"])
def test_more_than_two_classes(family: str):
    model = adapted_classifier(family, classes=5)
    rows = random_rows(LENGTHS, classes=5)
    assert len(set(rows.labels.tolist())) > 2
    expected = reference_gradients(model, rows)
    store, predictions = collected(model, rows)
    assert_same(store, expected.gradients)
    assert_predictions(predictions, expected)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}], ids=str)
def test_variants_of_lora(options: dict[str, object]):
    model = with_lora(tiny_classifier("qwen2"), QUERY_VALUE["qwen2"], **options)
    rows = random_rows(LENGTHS)
    assert_same(collected(model, rows)[0], reference_gradients(model, rows).gradients)


def test_rslora_scales_otherwise():
    rows = random_rows(LENGTHS)
    plain, scaled = (
        reference_gradients(with_lora(tiny_classifier("bert"), ["query"], use_rslora=on), rows).gradients
        for on in (False, True)
    )
    name = "bert.encoder.layer.0.attention.self.query.lora_A"
    assert not torch.allclose(plain[name], scaled[name])


def test_training_mode_is_left_before_the_pass():
    model = with_lora(tiny_classifier("bert"), ["query"], lora_dropout=0.5)
    rows = random_rows(LENGTHS)
    expected = reference_gradients(model, rows)
    assert_same(collected(model.train(), rows)[0], expected.gradients)


def test_predict_says_what_collect_says():
    model, rows, expected = case("qwen2", False)
    steps: list[int] = []
    found = predict(model, rows, pad_id=PAD, token_budget=20, advance=steps.append)
    assert_predictions(found, expected)
    assert sum(steps) == len(rows)
    assert len(steps) > 1


def test_progress_counts_every_row():
    model, rows, _ = case("bert", False)
    modules, steps = tracked_modules(model), []
    store = GradientStore([m.key for m in modules], len(rows))
    collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=20, advance=steps.append)
    assert sum(steps) == len(rows)


def test_float32_is_close():
    model, rows, expected = case("llama", True)
    narrow = with_lora(tiny_classifier("llama"), "all-linear")
    narrow.load_state_dict(model.state_dict())
    modules = tracked_modules(narrow.float())
    store = GradientStore([m.key for m in modules], len(rows))
    collect_gradients(narrow, modules, rows, store, pad_id=PAD)
    for position, key in enumerate(store.keys):
        wide = expected.gradients[key.name]
        assert store[position].dtype == torch.float32
        torch.testing.assert_close(store[position].double(), wide, rtol=0, atol=1e-4 * float(wide.abs().max()))


def test_files_hold_the_same_as_memory(tmp_path):
    model, rows, _ = case("bert", True)
    memory, _ = collected(model, rows)
    disk, _ = collected(model, rows, memory=0, folder=tmp_path / "gradients")
    assert not memory.on_disk
    assert disk.on_disk
    assert len(list((tmp_path / "gradients").iterdir())) == len(disk) == len(memory)
    for position in range(len(memory)):
        torch.testing.assert_close(disk[position], memory[position], rtol=0, atol=0)


def test_one_module_alone_gets_the_same():
    model, rows, expected = case("bert", False)
    modules = [m for m in tracked_modules(model) if m.key.layer == 1 and m.key.side == "lora_B"]
    store = GradientStore([m.key for m in modules], len(rows), dtype=torch.float64)
    collect_gradients(model, modules, rows, store, pad_id=PAD)
    assert_same(store, {m.key.name: expected.gradients[m.key.name] for m in modules})


def test_nan_weight_names_the_rows():
    model = adapted_classifier("bert")
    rows = random_rows((3, 4, 5, 6))
    rows.input_ids[1][0] = rows.input_ids[3][2] = 17
    for row in (0, 2):
        rows.input_ids[row][:] = [3] * len(rows.input_ids[row])
    with torch.no_grad():
        model.get_input_embeddings().weight[17, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"2 of 4 samples is not finite \(positions 1, 3\)"):
        collected(model, rows)
    with pytest.raises(TrainingError, match=r"positions 1, 3"):
        predict(model, rows, pad_id=PAD)


def test_many_bad_rows_are_not_all_named():
    model = adapted_classifier("bert")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"12 of 12 samples .*positions 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …\)"):
        collected(model, random_rows((3,) * 12))


def test_dora_is_refused():
    model = with_lora(tiny_classifier("bert"), ["query"], use_dora=True)
    with pytest.raises(ModelError, match=r"DoRA.*--finetune always"):
        tracked_modules(model)


def test_two_adapters_are_refused():
    model = adapted_classifier("bert")
    model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(ModelError, match=r"carries 2 adapters \(default, second\)"):
        tracked_modules(model)


def test_other_adapters_are_refused():
    from peft import IA3Config, TaskType, get_peft_model

    config = IA3Config(task_type=TaskType.SEQ_CLS, target_modules=["query"], feedforward_modules=[])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        model = get_peft_model(tiny_classifier("bert"), config)
    with pytest.raises(ModelError, match="type IA3; only LORA"):
        tracked_modules(model)


@pytest.mark.parametrize(
    ("away", "back"),
    [("merge_adapter", "unmerge_adapter"), ("disable_adapter_layers", "enable_adapter_layers")],
)
def test_adapter_that_takes_no_part_is_refused(away: str, back: str):
    # Its A and B never run, so their gradients would silently be zero.
    model = adapted_classifier("llama")
    getattr(model, away)()
    with pytest.raises(ModelError, match=rf"takes no part.*{back}\(\)"):
        tracked_modules(model)
    getattr(model, back)()
    assert tracked_modules(model)


def test_nothing_to_track_is_refused():
    with pytest.raises(ModelError, match="Sequential has neither LoRA adapters nor a classification head"):
        tracked_modules(nn.Sequential(nn.Linear(2, 2)))
