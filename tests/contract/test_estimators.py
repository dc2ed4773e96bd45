"""What every estimator must do; a new one gets these tests by registering."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.names import ESTIMATOR_NAMES

from . import reference

each_estimator = pytest.mark.parametrize("name", sorted(ESTIMATORS))
quick = settings(max_examples=30, deadline=None)

# A few round values make ties, zero gradients, duplicates and orthogonal pairs common.
values = st.one_of(
    st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0]),
    st.floats(1e-3, 8.0),
    st.floats(-8.0, -1e-3),
)


@st.composite
def gradients(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Gradients of 1 to 4 queries and 1 to 6 samples in 1 to 5 dimensions, some of them repeated."""
    d = draw(st.integers(1, 5))
    row = st.lists(values, min_size=d, max_size=d)
    pool = draw(st.lists(row, min_size=1, max_size=6))
    some = st.sampled_from([*pool, [0.0] * d])
    queries = draw(st.lists(some, min_size=1, max_size=4))
    samples = draw(st.lists(some, min_size=1, max_size=6))
    return torch.tensor(queries, dtype=torch.float64), torch.tensor(samples, dtype=torch.float64)


def influence(name: str, queries: Tensor, samples: Tensor) -> Tensor:
    return ESTIMATORS[name](GradientBlock(queries, samples))


def expected_influence(name: str, queries: Tensor, samples: Tensor) -> Tensor:
    assert name in reference.ESTIMATORS, f"write the equation of {name} in {reference.__file__}"
    return torch.tensor(reference.ESTIMATORS[name](queries.tolist(), samples.tolist()), dtype=torch.float64)


def assert_close(found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """Close relative to the largest value of the block: single entries may cancel to nothing."""
    atol = rtol * (1 + float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def random_gradients(q: int, n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(d, generator=generator, dtype=torch.float64)
    queries, samples = (torch.randn(m, d, generator=generator, dtype=torch.float64) + common for m in (q, n))
    # Losses differ by orders of magnitude between samples, and their gradients with them.
    return queries, samples * torch.logspace(-3, 1, n, dtype=torch.float64)[:, None]


def test_names_are_the_registry():
    assert set(ESTIMATOR_NAMES) == set(ESTIMATORS)
    assert len(set(ESTIMATOR_NAMES)) == len(ESTIMATOR_NAMES)


@each_estimator
@quick
@given(block=gradients())
def test_equals_its_equation(name: str, block: tuple[Tensor, Tensor]):
    found = influence(name, *block)
    assert found.shape == (len(block[0]), len(block[1]))
    assert_close(found, expected_influence(name, *block))


@each_estimator
@pytest.mark.parametrize(("q", "n", "d"), [(1, 1, 1), (1, 1, 7), (1, 9, 3), (5, 1, 4), (4, 20, 30)])
def test_equals_its_equation_on_random_gradients(name: str, q: int, n: int, d: int):
    block = random_gradients(q, n, d)
    assert_close(influence(name, *block), expected_influence(name, *block))


@each_estimator
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_float32_is_close_to_float64(name: str, scale: float):
    queries, samples = (scale * g for g in random_gradients(6, 80, 50))
    wide = influence(name, queries, samples)
    narrow = influence(name, queries.float(), samples.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-4 * float(wide.abs().max()))


@each_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zero", ["no query", "no sample", "nothing", "some of each"])
def test_zero_gradients_give_zero(name: str, zero: str, dtype: torch.dtype):
    queries, samples = (g.to(dtype) for g in random_gradients(3, 5, 4))
    if zero in ("no query", "nothing"):
        queries = torch.zeros_like(queries)
    if zero in ("no sample", "nothing"):
        samples = torch.zeros_like(samples)
    if zero == "some of each":
        queries[1] = samples[3] = 0
    found = influence(name, queries, samples)
    assert torch.isfinite(found).all()
    assert not found[(queries == 0).all(1)].any()
    assert not found[:, (samples == 0).all(1)].any()


@each_estimator
@pytest.mark.parametrize("size", [1e-9, 1e-15])
def test_vanishing_gradients_stay_finite(name: str, size: float):
    queries, samples = (size * g for g in random_gradients(3, 5, 4))
    assert torch.isfinite(influence(name, queries.float(), samples.float())).all()


@each_estimator
@quick
@given(block=gradients(), data=st.data())
def test_order_of_queries_and_samples_carries_over(name: str, block: tuple[Tensor, Tensor], data: st.DataObject):
    queries, samples = block
    p = data.draw(st.permutations(range(len(queries))))
    s = data.draw(st.permutations(range(len(samples))))
    assert_close(influence(name, queries[p], samples[s]), influence(name, queries, samples)[p][:, s])


@each_estimator
@quick
@given(block=gradients())
def test_queries_do_not_see_each_other(name: str, block: tuple[Tensor, Tensor]):
    queries, samples = block
    alone = torch.cat([influence(name, v[None], samples) for v in queries])
    assert_close(influence(name, queries, samples), alone)


@each_estimator
def test_duplicate_samples_get_equal_influence(name: str):
    queries, samples = random_gradients(3, 6, 10)
    found = influence(name, queries, samples[[0, 1, 2, 1, 4, 5, 0]])
    assert_close(found[:, 3], found[:, 1], 1e-12)
    assert_close(found[:, 6], found[:, 0], 1e-12)


@each_estimator
def test_positive_is_helpful(name: str):
    # A step on the query itself lowers its loss, a step on its opposite raises it.
    _, samples = random_gradients(1, 12, 30)
    found = influence(name, torch.cat([samples, -samples]), samples)
    assert (found[:12].diagonal() > 0).all()
    assert (found[12:].diagonal() < 0).all()


@each_estimator
def test_leaves_its_inputs_alone(name: str):
    queries, samples = random_gradients(3, 5, 4)
    before = queries.clone(), samples.clone()
    influence(name, queries, samples)
    assert torch.equal(queries, before[0])
    assert torch.equal(samples, before[1])


def test_sharing_a_block_changes_nothing():
    queries, samples = random_gradients(3, 5, 4)
    alone = {name: influence(name, queries, samples) for name in ESTIMATORS}
    for order in (list(ESTIMATORS), list(reversed(ESTIMATORS))):
        shared = GradientBlock(queries, samples)
        together = {name: ESTIMATORS[name](shared) for name in order}
        for name in ESTIMATORS:
            assert torch.equal(together[name], alone[name]), name


class Sizes(TorchDispatchMode):
    """Records the number of elements of every tensor that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@each_estimator
def test_no_matrix_of_samples_by_samples(name: str):
    q, n, d = 3, 4000, 5
    queries, samples = random_gradients(q, n, d)
    with Sizes() as sizes:
        influence(name, queries, samples)
    assert n <= sizes.largest <= n * max(q, d)
