"""Per-sample gradients of single layers against autograd, one sample at a time."""

import types

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from undertow.gradients.local import batched, linear_gradient, norm_gradient, normalised_input

TIMES = pytest.mark.parametrize("times", [(), (1,), (4,), (2, 3)], ids=str)


def sample_gradient(module: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Gradient of <module(x), delta>, weight and then bias."""
    found = torch.autograd.grad((module(x) * delta).sum(), list(module.parameters()))
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("bias", [False, True])
@TIMES
def test_linear(times: tuple[int, ...], bias: bool):
    torch.manual_seed(0)
    linear = nn.Linear(3, 2, bias=bias).double()
    x, delta = torch.randn(5, *times, 3).double(), torch.randn(5, *times, 2).double()
    found = linear_gradient(x, delta, bias=bias)
    for i in range(5):
        torch.testing.assert_close(found[i], sample_gradient(linear, x[i], delta[i]))


@TIMES
def test_linear_with_a_transposed_weight(times: tuple[int, ...]):
    torch.manual_seed(0)
    linear = Conv1D(2, 3).double()
    x, delta = torch.randn(5, *times, 3).double(), torch.randn(5, *times, 2).double()
    found = linear_gradient(x, delta, bias=True, transposed=True)
    for i in range(5):
        torch.testing.assert_close(found[i], sample_gradient(linear, x[i], delta[i]))


def norms() -> dict[str, nn.Module]:
    """Norms of six features with random scales and biases."""
    torch.manual_seed(1)
    made = {
        "LayerNorm": nn.LayerNorm(6),
        "LayerNorm without bias": nn.LayerNorm(6, bias=False),
        "LayerNorm of a large epsilon": nn.LayerNorm(6, eps=0.5),
        "RMSNorm": nn.RMSNorm(6),
        "Llama's": LlamaRMSNorm(6),
        "Gemma's, of 1 + scale": Gemma2RMSNorm(6),
    }
    for module in made.values():
        module.double()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return made


# Llama's and Gemma's norms compute in float32 whatever comes in.
@pytest.mark.parametrize("name", list(norms()))
@TIMES
def test_norm(times: tuple[int, ...], name: str):
    module = norms()[name]
    x, delta = torch.randn(5, *times, 6).double(), torch.randn(5, *times, 6).double()
    bias = getattr(module, "bias", None) is not None
    assert bias == (name in ("LayerNorm", "LayerNorm of a large epsilon"))
    found = norm_gradient(normalised_input(module, x), delta, bias=bias)
    tolerance = 1e-6 if "'s" in name else 1e-12
    for i in range(5):
        expected = sample_gradient(module, x[i], delta[i])
        torch.testing.assert_close(found[i], expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", list(norms()))
def test_normalised_input_leaves_the_module_untouched(name: str):
    module, calls = norms()[name], []
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.register_forward_hook(lambda *_: calls.append("after"))
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    parameters, hooks = dict(module.named_parameters()), (module._forward_hooks, module._forward_pre_hooks)
    values = {n: p.detach().clone() for n, p in parameters.items()}
    normalised_input(module, torch.randn(2, 6).double())
    assert calls == []
    assert (module._forward_hooks, module._forward_pre_hooks) == hooks
    assert [len(h) for h in hooks] == [1, 1]
    for n, p in module.named_parameters():
        assert p is parameters[n]
        assert p.requires_grad
        assert torch.equal(p, values[n])
        assert torch.equal(p.grad, torch.ones_like(p))


def test_normalised_input_puts_the_parameters_back_after_an_error():
    module = nn.LayerNorm(6)
    before = dict(module.named_parameters())
    with pytest.raises(RuntimeError):
        normalised_input(module, torch.randn(2, 5))
    assert all(p is before[n] for n, p in module.named_parameters())


def test_norm_whose_forward_was_replaced():
    # As libraries do that move weights between devices: the new one is bound to the module, not to a copy.
    module = norms()["LayerNorm"]
    x = torch.randn(4, 6).double()
    expected = normalised_input(module, x)
    plain = module.forward
    module.forward = types.MethodType(lambda self, inputs: plain(inputs), module)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(normalised_input(module, x), expected, rtol=0, atol=0)


def test_a_large_bias_costs_no_digits():
    module = nn.LayerNorm(64).bfloat16()
    nn.init.constant_(module.bias, 100.0)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = nn.functional.layer_norm(x.double(), (64,))
    torch.testing.assert_close(normalised_input(module, x).double(), expected, rtol=2**-8, atol=1e-3)


def test_half_precision_is_summed_in_float32():
    x, delta = torch.ones(1, 4096, 1, dtype=torch.bfloat16), torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    x[0, 0] = 3
    found = linear_gradient(x, delta, bias=True)
    assert found.dtype == torch.float32
    assert found.tolist() == [[4098.0, 4096.0]]
    assert norm_gradient(x, delta, bias=True).tolist() == [[4098.0, 4096.0]]


@TIMES
def test_axes_between_sample_and_feature_become_one(times: tuple[int, ...]):
    values = torch.randn(5, *times, 3)
    found = batched(values)
    assert found.shape == (5, len(values[0].reshape(-1, 3)), 3)
    assert torch.equal(found.flatten(), values.flatten())
    assert batched(values.half()).dtype == torch.float32
    assert batched(values.double()).dtype == torch.float64
