"""Hooks: what they compute, and that they leave no trace."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import PAD, adapted_classifier, random_rows
from torch import Tensor, nn

from undertow.gradients.collect import collect_gradients
from undertow.gradients.hooks import capture, linear_gradient
from undertow.gradients.store import GradientStore
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule, tracked_modules


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("times", [(), (1,), (4,), (2, 3)], ids=str)
def test_gradient_of_a_linear_map(times: tuple[int, ...], bias: bool):
    torch.manual_seed(0)
    linear = nn.Linear(3, 2, bias=bias).double()
    x, delta = torch.randn(5, *times, 3).double(), torch.randn(5, *times, 2).double()
    found = linear_gradient(x, delta, bias=bias)
    for i in range(5):
        expected = torch.autograd.grad((linear(x[i]) * delta[i]).sum(), list(linear.parameters()))
        torch.testing.assert_close(found[i], torch.cat([g.flatten() for g in expected]))


def test_half_precision_is_summed_in_float32():
    x, delta = torch.ones(1, 4096, 1, dtype=torch.bfloat16), torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    x[0, 0] = 3
    found = linear_gradient(x, delta, bias=True)
    assert found.dtype == torch.float32
    assert found.tolist() == [[4098.0, 4096.0]]


class Twice(nn.Module):
    """A classifier that applies one linear layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.shared = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.shared(torch.tanh(self.shared(self.embedding(input_ids))))
        weights = attention_mask[:, :, None] / attention_mask.sum(1)[:, None, None]
        return SimpleNamespace(logits=self.out((hidden * weights).sum(1)))


def test_module_that_runs_twice_adds_up():
    torch.manual_seed(0)
    model = Twice().double()
    rows = random_rows((2, 5, 3), classes=3)
    modules = [TrackedModule(ModuleKey("shared", None, "shared", "weight", "other", 20), model.shared)]
    store = GradientStore([m.key for m in modules], 3, dtype=torch.float64)
    collect_gradients(model, modules, rows, store, pad_id=PAD)
    for i in range(3):
        ids = torch.tensor([rows.input_ids[i]])
        logits = model(ids, torch.ones_like(ids)).logits
        loss = torch.logsumexp(logits[0], 0) - logits[0, int(rows.labels[i])]
        expected = torch.autograd.grad(loss, list(model.shared.parameters()))
        torch.testing.assert_close(store[0][i], torch.cat([g.flatten() for g in expected]), rtol=1e-9, atol=1e-12)


def traces(model: nn.Module) -> tuple[list[tuple[str, bool]], int, list[str]]:
    """Which parameters require a gradient, how many hooks there are, which gradients are left behind."""
    required = [(name, p.requires_grad) for name, p in model.named_parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return required, hooks, [name for name, p in model.named_parameters() if p.grad is not None]


def test_leaves_no_trace():
    model = adapted_classifier("roberta")
    before, modules = traces(model), tracked_modules(model)
    assert {requires for _, requires in before[0]} == {False, True}
    store = GradientStore([m.key for m in modules], 3)
    collect_gradients(model, modules, random_rows((4, 2, 3)), store, pad_id=PAD)
    assert traces(model) == before == (before[0], 0, [])


def test_leaves_no_trace_after_an_exception():
    model = adapted_classifier("llama")
    before, modules = traces(model), tracked_modules(model)
    rows = random_rows((4, 2, 3))
    rows.input_ids[1][0] = 999  # outside the vocabulary
    store = GradientStore([m.key for m in modules], 3)
    with pytest.raises(IndexError):
        collect_gradients(model, modules, rows, store, pad_id=PAD, token_budget=4)
    assert traces(model) == before


def test_leaves_no_trace_when_the_model_has_no_embedding():
    model = Twice()
    model.get_input_embeddings = lambda: None
    modules = [TrackedModule(ModuleKey("shared", None, "shared", "weight", "other", 20), model.shared)]
    before = traces(model)
    with pytest.raises((AttributeError, TypeError)), capture(model, modules, lambda m, g: None):
        pass
    assert traces(model) == before


def test_no_parameter_requires_a_gradient_inside():
    model = adapted_classifier("bert")
    with capture(model, tracked_modules(model), lambda m, g: None):
        assert not any(p.requires_grad for p in model.parameters())
