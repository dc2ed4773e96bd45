"""Hooks: what they hand over, and that they leave no trace."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import PAD, QUERY_VALUE, adapted_classifier, random_rows, tiny_classifier, tiny_config
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from undertow.gradients.collect import collect_gradients
from undertow.gradients.hooks import capture, first_token_only
from undertow.gradients.store import GradientStore
from undertow.models.architectures import first_token_module
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule, tracked_modules

from .collecting import assert_same, collected, padded, planned


class Twice(nn.Module):
    """A classifier that applies one linear layer, one norm and one embedding twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.shared = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.score = nn.Linear(4, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.embedding(input_ids) + torch.sin(self.embedding(input_ids))
        hidden = self.norm(self.shared(torch.tanh(self.norm(self.shared(hidden)))))
        weights = attention_mask[:, :, None] / attention_mask.sum(1)[:, None, None]
        return SimpleNamespace(logits=self.score((hidden * weights).sum(1)))


@pytest.mark.parametrize("smallest", [0, 100_000], ids=["factored", "dense"])
def test_modules_that_run_twice_add_up(smallest: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("undertow.gradients.layouts.SMALL", smallest)
    monkeypatch.setattr("undertow.gradients.layouts.LARGE", smallest)
    torch.manual_seed(0)
    model, rows = Twice().double(), random_rows((2, 5, 3), classes=3)
    store = collected(model, rows, 10)
    runs = {layout.key.name: layout.runs for layout in store.layouts if layout.operation != "embedding"}
    assert runs == {"shared": 2, "norm": 2, "score": 1}
    assert {layout.form for layout in store.layouts if layout.operation == "linear"} == {
        "dense" if smallest else "factored"
    }
    expected: dict[str, list[Tensor]] = {}
    for i in range(3):
        ids = torch.tensor([rows.input_ids[i]])
        logits = model(ids, torch.ones_like(ids)).logits
        loss = torch.logsumexp(logits[0], 0) - logits[0, int(rows.labels[i])]
        for name in ("embedding", "shared", "norm", "score"):
            found = torch.autograd.grad(loss, list(model.get_submodule(name).parameters()), retain_graph=True)
            expected.setdefault(name, []).append(torch.cat([g.flatten() for g in found]))
    assert_same(store, {name: torch.stack(values) for name, values in expected.items()})


def traces(model: nn.Module) -> tuple[list[tuple[str, bool]], int, list[str]]:
    """Which parameters require a gradient, how many hooks there are, which gradients are left behind."""
    required = [(name, p.requires_grad) for name, p in model.named_parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return required, hooks, [name for name, p in model.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["roberta", "gemma2"])
def test_leaves_no_trace(family: str):
    model = adapted_classifier(family)
    before, weights = traces(model), {n: p.clone() for n, p in model.state_dict().items()}
    assert {requires for _, requires in before[0]} == {False, True}
    collected(model, random_rows((4, 2, 3)), track=("auto", "linear", "norm"))
    assert traces(model) == before == (before[0], 0, [])
    assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())


def test_leaves_no_trace_after_an_exception():
    model, rows = adapted_classifier("llama"), random_rows((4, 2, 3))
    before, (modules, plans) = traces(model), planned(model, rows)
    assert traces(model) == before
    rows.input_ids[1][0] = 999  # outside the vocabulary
    store = GradientStore(plans, random_rows((4, 2, 3)))
    with pytest.raises(IndexError):
        collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=4)
    assert traces(model) == before


def test_leaves_no_trace_when_the_model_fails():
    model = Twice()
    key = ModuleKey("shared", None, "shared", "weight", "other", 20)
    before = traces(model)
    with pytest.raises(TypeError), capture(model, [TrackedModule(key, model.shared)], lambda *_: None):
        model(None, None)
    assert traces(model) == before


def test_no_parameter_requires_a_gradient_inside():
    model = adapted_classifier("bert")
    with capture(model, tracked_modules(model), lambda *_: None):
        assert not any(p.requires_grad for p in model.parameters())


def test_the_graph_begins_at_the_first_tracked_module():
    # What is in front of it, word embeddings and layers, is passed without any graph.
    model, rows = adapted_classifier("bert"), random_rows((4, 2, 3))
    late = [m for m in tracked_modules(model) if m.key.layer == 1]
    states: dict[str, Tensor] = {}
    first, second = (model.get_submodule(f"base_model.model.bert.encoder.layer.{i}") for i in (0, 1))
    for name, layer in (("first", first), ("second", second)):
        layer.register_forward_hook(lambda module, _, output, name=name: states.update({name: output}))
    with capture(model, late, lambda *_: None):
        model(**padded(rows))
    assert not states["first"].requires_grad
    assert states["second"].requires_grad


def test_what_is_handed_over():
    model, rows = tiny_classifier("gemma2"), random_rows((4, 2))
    modules = tracked_modules(model)
    found: dict[int, tuple[Tensor | None, Tensor]] = {}
    with capture(model, modules, lambda i, x, delta: found.update({i: (x, delta)})):
        model(**padded(rows)).logits.sum().backward()
    assert set(found) == set(range(len(modules)))
    for i, tracked in enumerate(modules):
        x, delta = found[i]
        assert (x is None) == (tracked.operation == "embedding")
        assert x is None or not x.requires_grad
        # A token that pads reaches no loss.
        assert torch.equal(delta[1, 2:], torch.zeros_like(delta[1, 2:])), tracked.key.name


FIRST_TOKEN = {
    "bert": "encoder.layer.1.attention.output",
    "roberta": "encoder.layer.1.attention.output",
    "distilbert": "transformer.layer.1.sa_layer_norm",
}


@pytest.mark.parametrize("family", list(QUERY_VALUE))
def test_whose_last_layer_needs_the_first_token_only(family: str):
    for model in (tiny_classifier(family), adapted_classifier(family)):
        found = first_token_module(model)
        names = [name for name, module in model.named_modules() if module is found]
        if family in FIRST_TOKEN:
            assert len(names) == 1
            assert names[0].endswith(FIRST_TOKEN[family])
        else:
            assert found is None


def encoders() -> dict[str, nn.Module]:
    """Classifiers of all encoders whose head reads the first token."""
    small = {"vocab_size": 50, "pad_token_id": 0, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 24, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2}
    return {
        **{family: tiny_classifier(family) for family in FIRST_TOKEN},
        "electra": ElectraForSequenceClassification(ElectraConfig(**small, embedding_size=16)),
        "camembert": CamembertForSequenceClassification(CamembertConfig(**small)),
        "xlm-roberta": XLMRobertaForSequenceClassification(XLMRobertaConfig(**small)),
    }


@pytest.mark.parametrize("family", list(encoders()))
def test_what_the_head_says_does_not_depend_on_the_other_tokens(family: str):
    model, rows = encoders()[family].double().eval(), random_rows((4, 9, 2))
    batch = padded(rows)
    shapes: list[tuple[int, ...]] = []
    with torch.no_grad():
        expected = model(**batch).logits
        handle = first_token_module(model).register_forward_hook(lambda _, __, output: shapes.append(output.shape))
        with first_token_only(model):
            found = model(**batch).logits
        handle.remove()
    assert shapes == [(3, 1, 16)]
    assert traces(model)[1] == 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_class_of_ones_own_computes_all_tokens():
    class Mine(BertForSequenceClassification):
        """May read anything."""

    model = Mine(tiny_config("bert"))
    assert first_token_module(model) is None
    with first_token_only(model):
        assert traces(model)[1] == 0
    assert first_token_module(nn.Linear(2, 2)) is None
