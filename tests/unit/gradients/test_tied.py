"""Word embeddings that are also the output layer, that are trained, that pad, or that are scaled."""

import copy

import pytest
import torch
from tiny_models import PAD, QUERY_VALUE, random_rows, tiny_classifier, tiny_language_model, with_lora
from torch import Tensor, nn

from undertow.data.tokenize import Encoded
from undertow.gradients import layouts
from undertow.gradients.columns import Batch
from undertow.gradients.hooks import capture
from undertow.gradients.store import GradientStore
from undertow.models.architectures import embedding_scale

from .collecting import FLOAT32, FLOAT64, assert_same, collected, dense, padded, planned
from .reference import one_row, reference_gradients

TIED = {"gpt2": FLOAT64, "llama": FLOAT64, "qwen2": FLOAT64, "gemma2": FLOAT32}


def next_token_losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Sum over the tokens of each sample of -log p(token | tokens before it), [b]."""
    scores = torch.log_softmax(model(**batch).logits[:, :-1], dim=-1)
    said = scores.gather(2, batch["input_ids"][:, 1:, None])[:, :, 0]
    return -(said * batch["attention_mask"][:, 1:]).sum(1)


def collected_by_language_model(model: nn.Module, rows: Encoded) -> GradientStore:
    """Gradients of the next-token loss with respect to both ends of the model, all rows in one batch."""
    modules, plans = planned(model, rows, ("embedding", "linear"))
    store, batch = GradientStore(plans, rows, dtype=torch.float64), padded(rows)
    everything = Batch(torch.arange(len(rows)), batch["attention_mask"].bool())
    with capture(model, modules, lambda i, x, delta: store.receive(i, everything, x, delta)):
        losses = next_token_losses(model, batch)
        losses.sum().backward()
    store.commit(everything, losses.detach(), torch.ones(len(rows), 1).double())
    return store


def by_autograd(model: nn.Module, rows: Encoded, *parameters: nn.Parameter) -> Tensor:
    """Gradient of each sample's loss, [n, size], summed over some parameters of one shape."""
    found = []
    for i in range(len(rows)):
        loss = next_token_losses(model, one_row(rows, i))[0]
        found.append(sum(g.flatten() for g in torch.autograd.grad(loss, parameters)))
    return torch.stack(found)


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("family", list(TIED))
def test_the_input_side_of_tied_embeddings_stands_alone(family: str, form: str, monkeypatch: pytest.MonkeyPatch):
    if form == "factored":
        monkeypatch.setattr(layouts, "LARGE", 0)
        monkeypatch.setattr(layouts, "SMALL", 0)
    model, rows = tiny_language_model(family), random_rows((5, 3, 8))
    words, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert words.weight is output.weight
    store = collected_by_language_model(model, rows)
    found = {layout.key.name: dense(store, i) for i, layout in enumerate(store.layouts)}
    name = next(layout.key.name for layout in store.layouts if layout.operation == "embedding")
    assert {layout.form for layout in store.layouts if layout.key.name == "lm_head"} == {form}

    untied = copy.deepcopy(model)
    source, sink = untied.get_input_embeddings().weight, nn.Parameter(output.weight.detach().clone())
    untied.get_output_embeddings().weight = sink
    inputs, outputs = by_autograd(untied, rows, source), by_autograd(untied, rows, sink)
    for place, wanted in ((name, inputs), ("lm_head", outputs)):
        atol = TIED[family] * float(wanted.abs().max())
        torch.testing.assert_close(found[place], wanted, rtol=0, atol=atol, msg=place)
    both = by_autograd(model, rows, words.weight)
    assert not torch.allclose(both, inputs)
    atol = 2 * TIED[family] * float(both.abs().max())
    torch.testing.assert_close(found[name] + found["lm_head"], both, rtol=0, atol=atol)


@pytest.mark.parametrize(("family", "words"), [("bert", "word_embeddings"), ("llama", "embed_tokens"), ("gpt2", "wte")])
def test_embeddings_trained_whole_beside_an_adapter(family: str, words: str):
    model = with_lora(tiny_classifier(family), QUERY_VALUE[family], modules_to_save=[words])
    rows = random_rows((5, 2, 9))
    store = collected(model, rows)
    key = next(key for key in store.keys if key.kind == "embedding")
    assert key.trained
    assert key.name.endswith(words)
    # The copy that runs and is trained, not the one that the adapter keeps.
    assert_same(store, reference_gradients(model, rows).fine_tuned(key.name))


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "deberta-v2"])
def test_the_row_of_the_padding_token_is_never_trained(family: str):
    model, rows = tiny_classifier(family), random_rows((6, 4, 7))
    for ids in rows.input_ids:
        ids[1] = ids[-2] = PAD  # pad tokens in the middle of a text, attended to
    assert model.get_input_embeddings().padding_idx == PAD
    store = collected(model, rows, 10_000, track=("embedding",))
    name = store.keys[0].name
    expected = reference_gradients(model, rows).gradients[name]
    assert float(expected.reshape(3, 50, 16)[:, PAD].abs().max()) == 0
    assert_same(store, {name: expected})
    assert PAD not in store[0].tokens.tolist()


def test_without_a_padding_token_every_row_is_trained():
    model, rows = tiny_classifier("gpt2"), random_rows((6, 4, 7))
    for ids in rows.input_ids:
        ids[1] = PAD
    assert model.get_input_embeddings().padding_idx is None
    store = collected(model, rows, 10_000, track=("embedding",))
    name = store.keys[0].name
    expected = reference_gradients(model, rows).gradients[name]
    assert float(expected.reshape(3, 50, 16)[:, PAD].abs().max()) > 0
    assert_same(store, {name: expected})


def test_scales_of_embeddings():
    assert embedding_scale(tiny_classifier("llama").get_input_embeddings()) == 1.0
    words = tiny_classifier("gemma2").get_input_embeddings()
    assert embedding_scale(words) == 16**0.5
    # It is rounded as the module rounds it.
    words.embed_scale = torch.tensor(1152**0.5)
    assert embedding_scale(words) == float(torch.tensor(1152**0.5).double())
    assert embedding_scale(words.bfloat16()) == float(torch.tensor(1152**0.5).bfloat16())
    plain = nn.Embedding(3, 2)
    plain.embed_scale = 3.0  # others hold a plain number
    assert embedding_scale(plain) == 3.0
