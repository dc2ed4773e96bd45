"""What every estimator must do; a new one gets these tests by registering."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.errors import ConfigError
from undertow.gradients.matrices import DenseGradients
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.estimators.lissa import lissa
from undertow.influence.moments import Moments
from undertow.influence.names import ESTIMATOR_NAMES, ESTIMATOR_NEEDS

from . import reference
from .problems import FORMS, Problem, Side, Sizes, by_hand, layer_problem, problems, random_problem

each_estimator = pytest.mark.parametrize("name", sorted(ESTIMATORS))
thorough = settings(max_examples=20, deadline=None)
quick = settings(max_examples=8, deadline=None)

# Of words: k largest has no meaning where gradients are not held by token.
BY_TOKEN = {"tracin-we-k", "tracin-we-k-pair"}
ANY_FORM = sorted(set(ESTIMATORS) - BY_TOKEN)
# What a pair's influence is does not depend on the other samples.
PAIRWISE = sorted(set(ESTIMATORS) - {"datainf", "datainf0", "exact", "lissa"})


def form_of(name: str) -> str:
    return "sparse" if "embedding" in ESTIMATOR_NEEDS[name] else "dense"


def influence(name: str, problem: Problem, form: str | None = None) -> Tensor:
    return ESTIMATORS[name](problem.block(form or form_of(name)))


def expected_influence(name: str, problem: Problem) -> Tensor:
    assert name in reference.ESTIMATORS, f"write the equation of {name} in {reference.__file__}"
    return torch.tensor(reference.ESTIMATORS[name](problem.given()), dtype=torch.float64)


def assert_close(found: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """Close relative to the largest value of the block: single entries may cancel to nothing."""
    atol = rtol * (1 + float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_names_are_the_registry():
    elsewhere = {n for n in ESTIMATOR_NAMES if ESTIMATOR_NEEDS[n] & {"checkpoints", "model"}}
    assert set(ESTIMATOR_NAMES) - elsewhere == set(ESTIMATORS)
    assert elsewhere == {"tracincp", "ekfac"}
    assert set(reference.ESTIMATORS) == set(ESTIMATORS)


@each_estimator
@thorough
@given(problem=problems())
def test_equals_its_equation(name: str, problem: Problem):
    found = influence(name, problem)
    assert found.shape == (len(problem.queries), len(problem.samples))
    assert_close(found, expected_influence(name, problem))


@each_estimator
@pytest.mark.parametrize(("q", "n", "d"), [(1, 1, 1), (1, 1, 7), (1, 9, 3), (5, 1, 4), (3, 12, 30), (3, 30, 12)])
def test_equals_its_equation_on_random_gradients(name: str, q: int, n: int, d: int):
    problem = random_problem(q, n, d)
    assert_close(influence(name, problem), expected_influence(name, problem))


@pytest.mark.parametrize("name", ANY_FORM)
@quick
@given(problem=problems())
def test_the_form_of_gradients_makes_no_difference(name: str, problem: Problem):
    expected = influence(name, problem, "dense")
    for form in ("factored", "sparse"):
        assert_close(influence(name, problem, form), expected)


@pytest.mark.parametrize("name", ANY_FORM)
@pytest.mark.parametrize("form", FORMS)
def test_random_gradients_in_every_form(name: str, form: str):
    problem = random_problem(4, 20, 30, seed=1)
    assert_close(influence(name, problem, form), expected_influence(name, problem))


@pytest.mark.parametrize("name", ANY_FORM)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("units", ["pooled", "tokens"])
def test_layers_held_by_their_factors(name: str, units: str, bias: bool, transposed: bool):
    lengths = ([1] * 3, [1] * 8) if units == "pooled" else ([2, 1, 4], [3, 1, 1, 5, 2, 2, 7, 1])
    queries, samples = layer_problem(*lengths, 4, 3, bias=bias, transposed=transposed)
    d = samples.size
    moments = Moments(torch.linspace(-1, 1, d).double(), torch.linspace(0, 2, d).double(), 7)
    expected = ESTIMATORS[name](GradientBlock(by_hand(queries), by_hand(samples), moments))
    assert_close(ESTIMATORS[name](GradientBlock(queries, samples, moments)), expected)


@each_estimator
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_float32_is_close_to_float64(name: str, scale: float):
    for n, d in ((80, 50), (40, 90)):
        problem = random_problem(6, n, d).times(scale, scale)
        narrow = influence(name, problem.to(torch.float32))
        # Of the same numbers, so that only the arithmetic differs.
        wide = influence(name, problem.to(torch.float32).to(torch.float64))
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-5 * float(wide.abs().max()))


@each_estimator
def test_narrow_storage_is_computed_in_float32(name: str):
    problem = random_problem(4, 20, 30).to(torch.bfloat16)
    for form in FORMS if name in ANY_FORM else ["sparse"]:
        found = influence(name, problem, form)
        expected = influence(name, problem.to(torch.float32), form)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@each_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zero", ["no query", "no sample", "nothing", "some of each"])
def test_zero_gradients_give_zero(name: str, zero: str, dtype: torch.dtype):
    of_queries, of_samples = torch.ones(3, 1), torch.ones(5, 1)
    if zero == "some of each":
        of_queries[1] = of_samples[3] = 0
    if zero in ("no query", "nothing"):
        of_queries[:] = 0
    if zero in ("no sample", "nothing"):
        of_samples[:] = 0
    problem = random_problem(3, 5, 4).times(of_queries, of_samples).to(dtype)
    found = influence(name, problem)
    assert torch.isfinite(found).all()
    if name != "self-influence":
        assert not found[of_queries[:, 0] == 0].any()
    if name != "less":  # the optimiser's momentum takes a step even where the gradient is zero
        assert not found[:, of_samples[:, 0] == 0].any()


@each_estimator
@pytest.mark.parametrize("size", [1e-9, 1e-15])
def test_vanishing_gradients_stay_finite(name: str, size: float):
    problem = random_problem(3, 5, 4).times(size, size).to(torch.float32)
    assert torch.isfinite(influence(name, problem)).all()


@pytest.mark.parametrize("name", ["cosine", "less"])
@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-42])
def test_an_angle_is_at_most_one(name: str, size: float):
    # The squares of these gradients are no numbers of float32 any more.
    problem = random_problem(3, 5, 4).times(size, 1.0).to(torch.float32)
    found = influence(name, problem)
    assert torch.isfinite(found).all()
    assert (found.abs() <= 1.01).all()


@each_estimator
@quick
@given(problem=problems(), data=st.data())
def test_order_of_queries_and_samples_carries_over(name: str, problem: Problem, data: st.DataObject):
    p = data.draw(st.permutations(range(len(problem.queries))))
    s = data.draw(st.permutations(range(len(problem.samples))))
    assert_close(influence(name, problem.part(p, s)), influence(name, problem)[p][:, s])


@each_estimator
@quick
@given(problem=problems())
def test_queries_do_not_see_each_other(name: str, problem: Problem):
    alone = torch.cat([influence(name, problem.part([i])) for i in range(len(problem.queries))])
    assert_close(influence(name, problem), alone)


@pytest.mark.parametrize("name", PAIRWISE)
@quick
@given(problem=problems())
def test_samples_do_not_see_each_other(name: str, problem: Problem):
    alone = torch.cat([influence(name, problem.part(samples=[i])) for i in range(len(problem.samples))], dim=1)
    assert_close(influence(name, problem), alone)


@each_estimator
@pytest.mark.parametrize("numbers", [1, 41])
def test_queries_in_chunks(name: str, numbers: int):
    problem = random_problem(7, 20, 12)
    for form in FORMS if name in ANY_FORM else ["sparse"]:
        block = problem.block(form)
        chunks = block.query_chunks(numbers)
        assert [c.stop - c.start for c in chunks] == {1: [1] * 7, 41: [2, 2, 2, 1]}[numbers]
        parts = torch.cat([ESTIMATORS[name](block.of_queries(c)) for c in chunks])
        assert_close(parts, influence(name, problem, form), 1e-12)


@each_estimator
def test_duplicate_samples_get_equal_influence(name: str):
    found = influence(name, random_problem(3, 6, 10).part(samples=[0, 1, 2, 1, 4, 5, 0]))
    assert_close(found[:, 3], found[:, 1], 1e-12)
    assert_close(found[:, 6], found[:, 0], 1e-12)


@each_estimator
def test_positive_is_helpful(name: str):
    # A step on the query itself lowers its loss, a step on its opposite raises it.
    samples, fresh = random_problem(1, 12, 30).samples, Moments(torch.zeros(30), torch.ones(30), 0)
    if name == "datainf0":  # with its small first term, what similar samples share is counted against them
        samples = Side(torch.eye(30, dtype=torch.float64)[:12], torch.ones(12, 30, dtype=torch.int64))
    found = influence(name, Problem(samples, samples, fresh)).diagonal()
    opposite = influence(name, Problem(samples, samples, fresh).times(queries=-1.0)).diagonal()
    if name == "self-influence":  # what moves itself much is suspect, whatever is asked
        assert (found < 0).all()
        assert torch.equal(opposite, found)
    else:
        assert (found > 0).all()
        assert (opposite < 0).all()


@each_estimator
def test_leaves_its_inputs_alone(name: str):
    problem, before = random_problem(3, 5, 4), random_problem(3, 5, 4)
    for form in FORMS if name in ANY_FORM else ["sparse"]:
        held = problem.block(form)
        ESTIMATORS[name](held)
        for now, then in ((held.queries, before.queries), (held.samples, before.samples)):
            assert torch.equal(now.rows(slice(0, now.samples)), then.dense)
    assert torch.equal(problem.moments.first, before.moments.first)
    assert torch.equal(problem.moments.second, before.moments.second)


@pytest.mark.parametrize("form", FORMS)
def test_sharing_a_block_changes_nothing(form: str):
    problem = random_problem(3, 5, 4)
    names = list(ESTIMATORS) if form == "sparse" else ANY_FORM
    alone = {name: influence(name, problem, form) for name in names}
    for order in (names, names[::-1]):
        shared = problem.block(form)
        together = {name: ESTIMATORS[name](shared) for name in order}
        for name in names:
            assert torch.equal(together[name], alone[name]), name


@each_estimator
def test_no_matrix_of_samples_by_samples(name: str):
    q, n, d = 3, 4000, 5
    problem = random_problem(q, n, d)
    block = problem.block(form_of(name))
    with Sizes() as sizes:
        ESTIMATORS[name](block)
    assert n <= sizes.largest <= n * max(q, d)


@pytest.mark.parametrize("name", ["datainf", "datainf0", "lissa"])
@pytest.mark.parametrize("form", ["factored", "sparse"])
def test_no_matrix_of_samples_by_samples_in_other_forms(name: str, form: str):
    block = random_problem(3, 150, 8).block(form)
    with Sizes() as sizes:
        ESTIMATORS[name](block)
    assert sizes.largest <= 150 * 5 * 8


def test_self_influence_is_the_diagonal_of_tracin():
    problem = random_problem(2, 9, 12)
    pairs = influence("tracin", Problem(problem.samples, problem.samples, problem.moments))
    for form in FORMS:
        found = influence("self-influence", problem, form)
        assert_close(found, -pairs.diagonal().expand(2, -1), 1e-12)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (12, 12), (1, 6), (6, 1)])
@pytest.mark.parametrize("form", FORMS)
def test_exact_solves_either_system_to_the_same(n: int, d: int, form: str):
    # The package's attribute of this name is the estimator; this is the file.
    module = importlib.import_module("undertow.influence.estimators.exact")
    block = random_problem(4, n, d).block(form)
    ridge = float(block.sample_squares.mean() / (10 * d))
    by_parameters, by_samples = module._by_parameters(block, ridge), module._by_samples(block, ridge)
    assert_close(by_samples, by_parameters)
    assert torch.equal(ESTIMATORS["exact"](block), by_parameters if d <= n else by_samples)


def test_exact_refuses_what_is_too_large(monkeypatch):
    module = importlib.import_module("undertow.influence.estimators.exact")
    monkeypatch.setattr(module, "LIMIT", 4)
    for n, d in ((4, 9), (9, 4)):
        influence("exact", random_problem(2, n, d))
    with pytest.raises(ConfigError, match=r"system of 5 unknowns for a module of 9 parameters and 5 samples.*datainf"):
        influence("exact", random_problem(2, 5, 9))


def nearly_collinear(n: int, d: int) -> Problem:
    """Float32 gradients with three directions and little beside them, as trained models have."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(3, d, generator=generator)
    rows = torch.randn(n + 5, 3, generator=generator) @ basis + 1e-3 * torch.randn(n + 5, d, generator=generator)
    counts = torch.ones(n + 5, d, dtype=torch.int64)
    problem = random_problem(5, n, d).to(torch.float32)
    parts = [Side(rows[s], counts[s]) for s in (slice(0, 5), slice(5, None))]
    return Problem(*parts, problem.moments)


@pytest.mark.parametrize("name", ["datainf", "exact", "lissa"])
@pytest.mark.parametrize(("n", "d"), [(60, 400), (400, 60)])
def test_nearly_collinear_gradients_in_float32(name: str, n: int, d: int):
    problem = nearly_collinear(n, d)
    wide = influence(name, problem.to(torch.float64))
    found = influence(name, problem)
    torch.testing.assert_close(found.double(), wide, rtol=0, atol=2e-5 * float(wide.abs().max()))


@pytest.mark.parametrize(("n", "d"), [(20, 3), (2, 3)])
def test_lissa_converges_to_exact(n: int, d: int):
    problem = random_problem(4, n, d)
    expected = influence("exact", problem)
    # The slowest direction shrinks by 1 - lambda / s = 1 - 1 / (10 d + 1) a step.
    gaps = [float((lissa(problem.block(), i) - expected).norm() / expected.norm()) for i in (0, 10, 100, 800)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-9 < gaps[0]


@pytest.mark.parametrize("form", FORMS)
def test_datainf_is_exact_for_one_sample(form: str):
    # Its one approximation swaps the mean over samples with the inverse.
    problem = random_problem(5, 1, 12)
    assert_close(influence("datainf", problem, form), influence("exact", problem, form))
    assert_close(influence("datainf0", problem, form), influence("exact", problem, form))


@pytest.mark.parametrize(("n", "d"), [(2, 40), (20, 40), (200, 40), (200, 8)])
def test_gap_of_the_approximations_to_exact(n: int, d: int, record_property):
    problem = random_problem(8, n, d)
    expected = influence("exact", problem)

    def gap(name: str) -> float:
        return float((influence(name, problem) - expected).norm() / expected.norm())

    gaps = {name: gap(name) for name in ("datainf", "lissa")}
    for name, value in gaps.items():
        record_property(f"{name}, n={n}, d={d}", value)
        print(f"{name}: relative distance to exact {value:.3f} for n={n}, d={d}")
    assert all(value > 1e-6 for value in gaps.values())  # each is an approximation: no gap would be a mistake


def test_exact_agrees_with_the_definition_solved_by_a_library():
    problem = random_problem(4, 9, 15)
    v, g = problem.queries.dense, problem.samples.dense
    ridge = g.square().sum(1).mean() / (10 * 15)
    hessian = g.T @ g / 9 + ridge * torch.eye(15, dtype=torch.float64)
    expected = v @ torch.linalg.inv(hessian) @ g.T
    assert_close(influence("exact", problem), expected)


@pytest.mark.parametrize("name", sorted(BY_TOKEN))
def test_words_need_gradients_by_token(name: str):
    with pytest.raises(TypeError, match="word embeddings have sparse gradients, these are DenseGradients"):
        influence(name, random_problem(2, 3, 4), "dense")


def test_less_needs_the_optimiser():
    rows = DenseGradients(torch.ones(2, 3))
    with pytest.raises(ConfigError, match="less needs the state of the Adam optimiser"):
        ESTIMATORS["less"](GradientBlock(rows, rows))


def test_less_looks_along_the_step_that_adam_takes():
    generator = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.Adam([weights], lr=1.0, betas=(0.8, 0.95), eps=1e-3)
    for _ in range(5):
        weights.grad = torch.randn(6, generator=generator, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[weights]
    moments = Moments(state["exp_avg"].clone(), state["exp_avg_sq"].clone(), 5, (0.8, 0.95), 1e-3)
    query, sample = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
    found = ESTIMATORS["less"](GradientBlock(query, sample, moments))
    before = weights.detach().clone()
    weights.grad = sample[0].clone()
    optimizer.step()
    step = before - weights.detach()
    assert_close(found[0, 0], torch.nn.functional.cosine_similarity(query[0], step, dim=0))


def datainf_by_hand(v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The formula, a sample at a time, in float64."""
    v, g = v.double(), g.double()
    n, d = g.shape
    ridge = float(g.square().sum(1).mean() / (10 * d))
    found = v @ g.T
    for i in range(n):
        found = found - (v @ g[i])[:, None] * (g @ g[i])[None] / (ridge + g[i].square().sum()) / n
    return found / ridge


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-20])
@pytest.mark.parametrize("rows", [1, 60])
def test_datainf_of_parallel_gradients_does_not_cancel(rows: int, scale: float):
    generator = torch.Generator().manual_seed(0)
    one, v = torch.randn(1, 300, generator=generator), torch.randn(3, 300, generator=generator)
    g = one.expand(rows, -1) * scale
    found = ESTIMATORS["datainf"](GradientBlock(v * scale, g))
    torch.testing.assert_close(found.double(), datainf_by_hand(v * scale, g), rtol=1e-3, atol=0)
