"""Gradients of a batch against batch size one, for every family of models."""

from functools import cache

import numpy as np
import pytest
import torch
from tiny_models import PAD, QUERY_VALUE, adapted_classifier, chosen_rows, random_rows, tiny_classifier, with_lora
from torch import nn

from undertow.data.tokenize import Encoded
from undertow.errors import TrainingError
from undertow.gradients import layouts
from undertow.gradients.collect import _sample_losses, collect_gradients, predict
from undertow.gradients.store import GradientStore
from undertow.models.architectures import default_lora_targets

from .collecting import FLOAT32, FLOAT64, assert_predictions, assert_same, collected, dense, planned
from .reference import Reference, reference_gradients

FAMILIES = tuple(QUERY_VALUE)
LENGTHS = (5, 2, 9, 1, 12)
# One row a batch; two or three; everything at once.
BUDGETS = (1, 20, 10_000)
# Gemma-2 caps its attention scores, for which there is no attention kernel: transformers takes the softmax of
# padded rows in float32, whatever the weights are.
RTOL = dict.fromkeys(FAMILIES, FLOAT64) | {"gemma2": FLOAT32}

WORDS = {
    "bert": "bert.embeddings.word_embeddings",
    "roberta": "roberta.embeddings.word_embeddings",
    "distilbert": "distilbert.embeddings.word_embeddings",
    "deberta-v2": "deberta.embeddings.word_embeddings",
    "gpt2": "transformer.wte",
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3"), "model.embed_tokens"),
}
# Parameters that no module of any kind that is tracked holds: embeddings of anything but words.
OTHER_EMBEDDINGS = {
    "bert": {"bert.embeddings.position_embeddings", "bert.embeddings.token_type_embeddings"},
    "roberta": {"roberta.embeddings.position_embeddings", "roberta.embeddings.token_type_embeddings"},
    "distilbert": {"distilbert.embeddings.position_embeddings"},
    "deberta-v2": {"deberta.embeddings.position_embeddings", "deberta.encoder.rel_embeddings"},
    "gpt2": {"transformer.wpe"},
}


@cache
def full(family: str) -> tuple[nn.Module, Encoded, Reference]:
    """A model without an adapter."""
    model, rows = tiny_classifier(family), random_rows(LENGTHS)
    return model, rows, reference_gradients(model, rows)


@cache
def adapted(family: str, everywhere: bool = False) -> tuple[nn.Module, Encoded, Reference]:
    """A model with LoRA, by default on its query and value projections."""
    targets = "all-linear" if everywhere else QUERY_VALUE[family]
    model, rows = adapted_classifier(family, targets=targets), random_rows(LENGTHS)
    return model, rows, reference_gradients(model, rows)


def forms(store: GradientStore) -> dict[str, set[str]]:
    """In which forms modules of each operation are held."""
    found: dict[str, set[str]] = {}
    for layout in store.layouts:
        found.setdefault(layout.operation, set()).add(layout.form)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_a_model_without_an_adapter(family: str):
    model, rows, expected = full(family)
    wanted = {n: g for n, g in expected.gradients.items() if n not in OTHER_EMBEDDINGS.get(family, ())}
    assert len(wanted) == len(expected.gradients) - len(OTHER_EMBEDDINGS.get(family, ()))
    for budget in BUDGETS:
        store = collected(model, rows, budget)
        assert forms(store) == {"linear": {"dense"}, "norm": {"dense"}, "embedding": {"sparse"}}
        assert_same(store, wanted, RTOL[family])
        assert_predictions(store, expected, RTOL[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_every_linear_layer(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layouts, "LARGE", 0)
    monkeypatch.setattr(layouts, "SMALL", 0)
    model, rows, expected = full(family)
    wanted = {n: g for n, g in expected.gradients.items() if n not in OTHER_EMBEDDINGS.get(family, ())}
    store = collected(model, rows, 20)
    # Layers that see what all samples share have no factors of their own.
    shared = {layout.key.name for layout in store.layouts if layout.shared}
    assert bool(shared) == (family == "deberta-v2")
    for layout in store.layouts:
        own = layout.operation == "linear" and layout.key.name not in shared
        assert (layout.form == "factored") == own
    assert_same(store, wanted, RTOL[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_head_and_frozen_word_embeddings(family: str):
    model, rows, expected = adapted(family)
    assert default_lora_targets(model.get_base_model()) == tuple(QUERY_VALUE[family])
    for budget in BUDGETS:
        store = collected(model, rows, budget)
        assert [k.name for k in store.keys if not k.trained] == [WORDS[family]]
        assert_same(store, expected.fine_tuned(WORDS[family]), RTOL[family])
        assert_predictions(store, expected, RTOL[family])


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "phi3"])
def test_lora_on_all_linear_layers(family: str, form: str, monkeypatch: pytest.MonkeyPatch):
    if form == "factored":
        monkeypatch.setattr(layouts, "LARGE", 0)
        monkeypatch.setattr(layouts, "SMALL", 0)
    model, rows, expected = adapted(family, everywhere=True)
    store = collected(model, rows, 20)
    assert forms(store)["linear"] == {form}
    assert_same(store, expected.fine_tuned(WORDS[family]), RTOL[family])


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_frozen_parts_beside_an_adapter(family: str):
    model, rows, expected = adapted(family)
    store = collected(model, rows, track=("linear", "norm"))
    tuned = expected.fine_tuned(WORDS[family])
    others = OTHER_EMBEDDINGS.get(family, ())
    assert_same(store, {n: g for n, g in expected.gradients.items() if n not in tuned and n not in others})
    assert not any(key.trained for key in store.keys)


@pytest.mark.parametrize("budget", BUDGETS[1:])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_order_of_the_rows_carries_over(family: str, budget: int):
    model, rows, expected = adapted(family)
    order = [3, 0, 4, 1, 2]
    store = collected(model, chosen_rows(rows, order), budget)
    wanted = expected.fine_tuned(WORDS[family])
    assert_same(store, {name: values[order] for name, values in wanted.items()})
    np.testing.assert_allclose(store.loss.numpy(), expected.loss[order].numpy(), rtol=FLOAT64)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2", "mistral", "gemma2"])
def test_longer_neighbours_change_nothing(family: str):
    model = adapted_classifier(family)
    rows = random_rows((3, 4, 30, 38))
    alone = collected(model, chosen_rows(rows, [0, 1]), 10_000)
    padded = collected(model, rows, 10_000)
    for position, key in enumerate(alone.keys):
        wanted, found = dense(alone, position), dense(padded, position)[:2]
        atol = RTOL[family] * float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=0, atol=atol, msg=f"{family} {key.name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_longer_than_samples_of_one_token(family: str, monkeypatch: pytest.MonkeyPatch):
    """Of one token, any module seems to see one vector a sample; of longer queries it sees more."""
    monkeypatch.setattr(layouts, "LARGE", 0)
    monkeypatch.setattr(layouts, "SMALL", 0)
    model, queries, expected = full(family)
    samples, others = random_rows((1, 1, 1), seed=1), OTHER_EMBEDDINGS.get(family, ())
    wanted = {n: g for n, g in expected.gradients.items() if n not in others}
    assert_same(collected(model, queries, 20, plan_for=samples), wanted, RTOL[family])
    store, alone = collected(model, samples), reference_gradients(model, samples).gradients
    for position, key in enumerate(store.keys):  # of one token, attention has no choice: some are zero
        torch.testing.assert_close(dense(store, position), alone[key.name], rtol=RTOL[family], atol=1e-8, msg=key.name)


@pytest.mark.parametrize("budget", BUDGETS[1:])
def test_token_types(budget: int):
    model = adapted_classifier("bert")
    typed, plain = random_rows(LENGTHS, token_types=True), random_rows(LENGTHS)
    expected = reference_gradients(model, typed).fine_tuned(WORDS["bert"])
    assert_same(collected(model, typed, budget), expected)
    without = reference_gradients(model, plain).gradients
    assert any(not torch.allclose(without[name], values) for name, values in expected.items())


@pytest.mark.parametrize("family", ["roberta", "mistral"])
def test_more_than_two_classes(family: str):
    model = adapted_classifier(family, classes=5)
    rows = random_rows(LENGTHS, classes=5)
    assert len(set(rows.labels.tolist())) > 2
    expected = reference_gradients(model, rows)
    store = collected(model, rows)
    assert_same(store, expected.fine_tuned(WORDS[family]))
    assert_predictions(store, expected)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}], ids=str)
def test_variants_of_lora(options: dict[str, object]):
    model = with_lora(tiny_classifier("qwen2"), QUERY_VALUE["qwen2"], **options)
    rows = random_rows(LENGTHS)
    assert_same(collected(model, rows), reference_gradients(model, rows).fine_tuned(WORDS["qwen2"]))


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
    assert_same(collected(model.train(), rows), expected.fine_tuned(WORDS["bert"]))


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_predict_says_what_collect_says(family: str):
    model, rows, expected = adapted(family)
    steps: list[int] = []
    found = predict(model, rows, pad_id=PAD, token_budget=20, advance=steps.append)
    np.testing.assert_allclose(found.loss, expected.loss.numpy(), rtol=FLOAT64)
    np.testing.assert_allclose(found.probabilities, expected.probabilities.numpy(), rtol=FLOAT64)
    assert sum(steps) == len(rows)
    assert len(steps) > 1


def test_progress_counts_every_row():
    model, rows, _ = adapted("bert")
    (modules, plans), steps = planned(model, rows), []
    store = GradientStore(plans, rows)
    collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=20, advance=steps.append)
    assert sum(steps) == len(rows)
    assert len(steps) > 2


@pytest.mark.parametrize("family", ["bert", "gpt2", "gemma2"])
def test_float32_is_close(family: str):
    _, rows, expected = full(family)
    narrow = tiny_classifier(family).float()
    store = collected(narrow, rows, dtype=torch.float32)
    for position, key in enumerate(store.keys):
        wide, found = expected.gradients[key.name], dense(store, position)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wide, rtol=0, atol=1e-4 * float(wide.abs().max()), msg=key.name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(dtype: torch.dtype):
    # Eight or eleven significant bits in some twenty layers: the direction must hold, the digits cannot.
    rows, wide = random_rows(LENGTHS), full("llama")[2]
    store = collected(tiny_classifier("llama").to(dtype), rows, dtype=torch.float32)
    for position, key in enumerate(store.keys):
        found, expected = dense(store, position).double(), wide.gradients[key.name]
        cosine = nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
        assert float(cosine) > 0.99, key.name


def test_autocast_computes_in_the_other_precision():
    rows, wide = random_rows(LENGTHS), full("bert")[2]
    model = tiny_classifier("bert").float()
    (modules, plans), found = planned(model, rows), {}
    for autocast in (None, torch.bfloat16):
        store = GradientStore(plans, rows)
        collect_gradients(model, modules, rows, store, pad_id=PAD, autocast=autocast)
        found[autocast] = store
    for position, key in enumerate(found[None].keys):
        plain, cast = dense(found[None], position), dense(found[torch.bfloat16], position)
        expected = wide.gradients[key.name].float()
        assert not torch.equal(plain, cast)
        assert float(nn.functional.cosine_similarity(cast.flatten(), expected.flatten(), dim=0)) > 0.99, key.name


def test_modules_alone_get_the_same():
    model, rows, expected = adapted("bert")
    modules, plans = planned(model, rows)
    some = [i for i, m in enumerate(modules) if m.key.layer == 1 and m.key.side == "lora_B"]
    store = GradientStore([plans[i] for i in some], rows, dtype=torch.float64)
    collect_gradients(model, [modules[i] for i in some], rows, store, pad_id=PAD)
    assert_same(store, {modules[i].key.name: expected.gradients[modules[i].key.name] for i in some})


def spoiled(model: nn.Module, value: float) -> Encoded:
    """Rows of which 1 and 3 hold a token whose embedding has this value."""
    rows = random_rows((3, 4, 5, 6))
    for ids in rows.input_ids:
        ids[:] = [3] * len(ids)
    rows.input_ids[1][0] = rows.input_ids[3][2] = 17
    with torch.no_grad():
        model.get_input_embeddings().weight[17, 0] = value
    return rows


def test_nan_weight_names_the_rows():
    model = adapted_classifier("bert")
    rows = spoiled(model, torch.nan)
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


@pytest.mark.parametrize("margin", [10.0, 17.0, 25.0])
def test_the_loss_of_a_saturated_row_has_the_gradient_of_float64(margin: float):
    """softmax - one-hot is near 0 there: in float32 it would be the rounding error of 1 - 1."""
    logits = torch.tensor([[margin, 0.0]], requires_grad=True)
    _sample_losses(logits, torch.tensor([0])).sum().backward()
    other = float(torch.tensor(-margin, dtype=torch.float64).sigmoid())
    torch.testing.assert_close(logits.grad, torch.tensor([[-other, other]]), rtol=1e-5, atol=0)
