"""Sums over the units of samples, put together or not, against loops."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.gradients import units
from undertow.gradients.units import outer_sums, squared_norms

EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# All of a length at once; two or three at once; each alone.
LIMITS = {"together": (2**15, 2**20, 8), "some": (2**15, 60, 2), "alone": (0, 2**20, 8)}


@pytest.fixture(params=LIMITS)
def limits(request, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in zip(("_SMALL", "_AT_ONCE", "_WORTH"), LIMITS[request.param], strict=True):
        monkeypatch.setattr(units, name, value)
    return request.param


@st.composite
def factors(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Small whole numbers, whose sums and products are exact in whatever order, and the units of each sample."""
    counts = draw(st.lists(st.integers(0, 4), max_size=12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = [(sum(counts), draw(st.integers(1, 4))) for _ in range(2)]
    left, right = (torch.randint(-3, 4, shape, generator=generator).float() for shape in shapes)
    return left, right, counts


def parts(values: Tensor, counts: list[int]) -> list[Tensor]:
    return list(values.split(counts)) if counts else []


def starts_of(counts: list[int]) -> Tensor:
    return torch.tensor([sum(counts[:i]) for i in range(len(counts) + 1)])


@EXAMPLES
@given(factors())
def test_outer_sums(limits: str, case: tuple[Tensor, Tensor, list[int]]):
    left, right, counts = case
    room = torch.full((len(counts), left.shape[1], right.shape[1] + 1), -7.0)  # a part of something larger
    outer_sums(left, right, starts_of(counts), room[:, :, :-1])
    for found, a, b in zip(room, parts(left, counts), parts(right, counts), strict=True):
        expected = sum((torch.outer(x, y) for x, y in zip(a, b, strict=True)), torch.zeros(a.shape[1], b.shape[1]))
        assert torch.equal(found[:, :-1], expected)
        assert (found[:, -1] == -7).all()


@pytest.mark.parametrize("bias", [False, True])
@EXAMPLES
@given(factors())
def test_squared_norms(limits: str, bias: bool, case: tuple[Tensor, Tensor, list[int]]):
    x, delta, counts = case
    found = squared_norms(x, delta, starts_of(counts), bias=bias, dtype=torch.float32)
    assert found.dtype == torch.float64
    expected = []
    for a, b in zip(parts(x, counts), parts(delta, counts), strict=True):
        weight = b.T @ a
        expected.append(float(weight.square().sum() + bias * b.sum(0).square().sum()))
    assert found.tolist() == expected


def test_how_many_are_put_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(units, "_SMALL", 20)
    monkeypatch.setattr(units, "_AT_ONCE", 36)
    monkeypatch.setattr(units, "_WORTH", 3)
    counts = [2, 1, 2, 1, 1, 2, 1, 0, 2, 3, 3]

    def parted(features: int, product: int) -> tuple[list[tuple[list[int], list[list[int]]]], list[int]]:
        together, alone = units._parted(starts_of(counts), features, lambda _: product)
        for sample, places in alone:
            assert (places.start, places.stop) == (sum(counts[:sample]), sum(counts[: sample + 1]))
        return [(chosen.tolist(), places.tolist()) for chosen, places in together], [sample for sample, _ in alone]

    # Three of one unit fit; of two units only two would; three units are not small.
    ones, some = ([1, 3, 4], [[2], [5], [6]]), ([6], [[9]])
    assert parted(8, 2) == ([([7], [[]]), ones, some], [0, 2, 5, 8, 9, 10])
    assert parted(8, 5) == ([([7], [[]])], [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
    twos, threes = ([0, 2, 5, 8], [[0, 1], [3, 4], [7, 8], [10, 11]]), ([9, 10], [[12, 13, 14], [15, 16, 17]])
    assert parted(1, 1) == ([([7], [[]]), ([1, 3, 4, 6], [[2], [5], [6], [9]]), twos, threes], [])
