"""Attention by plain products against torch's own."""

import pytest
import torch
from tiny_models import PAD, random_rows, tiny_classifier
from torch import Tensor, nn

from undertow.gradients import attention
from undertow.gradients.attention import plain_attention
from undertow.gradients.collect import collect_gradients
from undertow.gradients.store import GradientStore

from .collecting import dense, planned

PAIRS = (2, 1, 5, 5)
ADDED = torch.randn(PAIRS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CASES = {
    "bare": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "added": {"attn_mask": ADDED},
    "boolean": {"attn_mask": (ADDED > -0.5) | torch.eye(5, dtype=torch.bool)},
    "shared heads": {"enable_gqa": True, "is_causal": True},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_torch(case: str):
    generator = torch.Generator().manual_seed(0)
    heads = (4, 2, 2) if "enable_gqa" in CASES[case] else (4, 4, 4)
    inputs = [torch.randn(2, h, 5, 8, generator=generator, dtype=torch.float64).requires_grad_() for h in heads]
    weights = torch.randn(2, 4, 5, 8, generator=generator, dtype=torch.float64)

    def all_of(attend) -> tuple[Tensor, ...]:
        output = attend(*inputs, **CASES[case])
        return output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)

    torch.testing.assert_close(all_of(plain_attention), all_of(nn.functional.scaled_dot_product_attention))


def test_a_token_that_may_look_at_none_averages_over_all():
    value = torch.randn(1, 1, 3, 4)
    blind = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    found = plain_attention(torch.randn(1, 1, 1, 4), torch.randn(1, 1, 3, 4), value, attn_mask=blind)
    torch.testing.assert_close(found, value.mean(-2, keepdim=True))


@pytest.mark.parametrize(
    ("autocast", "longest", "expected"),
    [(torch.bfloat16, 256, True), (torch.bfloat16, 4, False), (None, 256, False)],
)
def test_taken_in_half_precision_for_short_texts(autocast, longest, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "LONGEST", longest)
    monkeypatch.setattr(attention, "plain_attention", lambda *a, **k: calls.append(a) or plain_attention(*a, **k))
    rows, model = random_rows((5, 5)), tiny_classifier("bert").float()
    modules, plans = planned(model, rows)
    store = GradientStore(plans, rows)
    collect_gradients(model, modules, rows, store, pad_id=PAD, autocast=autocast)
    assert bool(calls) == expected


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_of_models_keep_their_direction(family: str):
    rows, model = random_rows((5, 2, 9, 1, 12)), tiny_classifier(family).float()
    modules, plans = planned(model, rows)
    exact, quick = (GradientStore(plans, rows) for _ in range(2))
    collect_gradients(model, modules, rows, exact, pad_id=PAD)
    collect_gradients(model, modules, rows, quick, pad_id=PAD, autocast=torch.bfloat16)
    for position, key in enumerate(exact.keys):
        similar = nn.functional.cosine_similarity(dense(exact, position).flatten(), dense(quick, position).flatten(), 0)
        assert float(similar) > 0.99, key.name
