"""Products by oneDNN against the same in float64, and where they are left to torch."""

import copy

import pytest
import torch
from torch import nn

from undertow.models import kernels
from undertow.models.kernels import QuickLinear, times_transposed

needs_kernel = pytest.mark.skipif(not kernels.has_kernel(), reason="this torch has no oneDNN products here")


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN was asked for a product."""
    found, real = [], torch.ops.mkldnn._linear_pointwise

    def count(*arguments):
        found.append(tuple(arguments[0].shape))
        return real(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", count)
    return found


@needs_kernel
@pytest.mark.parametrize("layout", ["rows", "transposed left", "transposed right", "part of a larger one"])
def test_times_transposed(layout, calls):
    x, w = drawn(33, 130), drawn(200, 130, seed=1)
    given = {
        "rows": (x, w),
        "transposed left": (x.T.contiguous().T, w),
        "transposed right": (x, w.T.contiguous().T),
        "part of a larger one": (drawn(40, 300)[3:36, 50:180].copy_(x), drawn(200, 260)[:, 100:230].copy_(w)),
    }[layout]
    torch.testing.assert_close(times_transposed(*given), (x.double() @ w.double().T).float(), rtol=1e-5, atol=2e-5)
    assert len(calls) == 1


def test_other_products_are_those_of_torch(calls):
    for x, w in (
        (drawn(4, 200, dtype=torch.float64), drawn(200, 200, dtype=torch.float64)),
        (drawn(4, 200).bfloat16(), drawn(200, 200).bfloat16()),
        (drawn(4, 10), drawn(5, 10)),
        (drawn(0, 200), drawn(200, 200)),
    ):
        assert torch.equal(times_transposed(x, w), x @ w.T)
    assert not calls


def with_gradients(model, x):
    x = x.clone().requires_grad_(True)
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@needs_kernel
@pytest.mark.parametrize("shape", [(6, 160), (3, 5, 160), (2, 60, 3, 160)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_linear_layer_and_its_gradients(shape, bias, frozen, calls):
    torch.manual_seed(0)
    model = nn.Linear(160, 128, bias=bias).requires_grad_(not frozen)
    wide = copy.deepcopy(model).double()
    x = drawn(*shape)
    with QuickLinear():
        found = with_gradients(model, x)
    assert len(calls) == 2 + (not frozen and x.numel() > 16_384)
    for mine, exact in zip(found, with_gradients(wide, x.double()), strict=True):
        torch.testing.assert_close(mine, exact.float(), rtol=1e-5, atol=1e-4)


@needs_kernel
def test_only_while_it_is_open_and_without_autocast(calls):
    model, x = nn.Linear(160, 128), drawn(6, 160)
    model(x)
    with QuickLinear(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    with QuickLinear(), torch.no_grad():
        model.double()(x.double())
    assert not calls
    with QuickLinear(), torch.no_grad():
        assert not model.float()(x).requires_grad
    assert len(calls) == 1


@needs_kernel
def test_by_keywords_too(calls):
    with QuickLinear():
        nn.functional.linear(input=drawn(6, 160), weight=drawn(128, 160))
    assert not calls  # torch's own, which is right as well


@needs_kernel
def test_what_is_not_finite_stays_so():
    x, w = drawn(6, 160), drawn(128, 160)
    x[2, 3] = float("nan")
    assert times_transposed(x, w).isnan().all(dim=1).tolist() == [False, False, True, False, False, False]
