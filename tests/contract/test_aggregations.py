"""What every aggregation must do: the suite that each gets by registering."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undertow.aggregation.in_memory import aggregate
from undertow.aggregation.names import AGGREGATION_NAMES, AGGREGATIONS, vote_count
from undertow.errors import ConfigError

from . import reference_aggregations as reference
from .aggregating import REDUCIBLE, SUMS, aggregated, picked, problems, served

each_aggregation = pytest.mark.parametrize("how", AGGREGATION_NAMES)
# What depends on the order within rows alone, and what an overall scale of a row leaves as it is.
BY_ORDER = ("rank", "vote", "vote-all", "consensus", "rra")
quick = settings(max_examples=40, deadline=None)
close = {"rtol": 1e-9, "atol": 1e-7}


def random_influence(modules: int = 3, queries: int = 5, samples: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((modules, queries, samples)).astype(np.float32)


def expected_score(how: str, problem: reference.Given) -> np.ndarray:
    assert how in reference.AGGREGATIONS, f"write the definition of {how} in {reference.__file__}"
    exact = replace(problem, influence=np.asarray(problem.influence, dtype=np.float64).tolist())
    return np.array(reference.AGGREGATIONS[how](exact))


@each_aggregation
@quick
@given(data=st.data())
def test_equals_its_definition(how: str, data: st.DataObject):
    problem = data.draw(problems(how, plain=True))
    found = aggregated(how, problem)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected_score(how, problem), **close)


@each_aggregation
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_its_definition_with_any_choice_of_queries_and_weights(how: str, data: st.DataObject):
    problem = data.draw(problems(how))
    np.testing.assert_allclose(aggregated(how, problem), expected_score(how, problem), **close)


@each_aggregation
@quick
@given(data=st.data())
def test_order_of_modules_queries_and_samples(how: str, data: st.DataObject):
    problem = data.draw(problems(how))
    m, q, s = (data.draw(st.permutations(range(size))) for size in problem.influence.shape)
    before = aggregated(how, problem)
    np.testing.assert_allclose(aggregated(how, picked(problem, "module", m)), before, **close)
    np.testing.assert_allclose(aggregated(how, picked(problem, "query", q)), before, **close)
    np.testing.assert_allclose(aggregated(how, picked(problem, "sample", s)), before[s], **close)


@each_aggregation
@quick
@given(data=st.data())
def test_duplicate_samples_tie(how: str, data: st.DataObject):
    problem = data.draw(problems(how))
    n = problem.samples
    found = aggregated(how, picked(problem, "sample", [*range(n), *range(n)]))
    np.testing.assert_array_equal(found[:n], found[n:])


@each_aggregation
def test_equal_influence_gives_equal_scores(how: str):
    found = aggregate(np.full((2, 3, 7), 0.25, dtype=np.float32), how)
    assert len(set(found.tolist())) == 1


@each_aggregation
def test_lowest_score_is_the_most_detrimental(how: str):
    influence = random_influence()
    influence[:, :, 7] = -10
    influence[:, :, 11] = 10
    found = aggregate(influence, how)
    assert found.argmin() == 7
    assert found[11] == found.max()


@pytest.mark.parametrize("how", BY_ORDER)
@quick
@given(influence=hnp.arrays(np.float64, (2, 3, 8), elements=st.integers(-20, 20).map(float)), k=st.floats(0.01, 1))
def test_monotone_transforms_change_nothing(how: str, influence: np.ndarray, k: float):
    before = aggregate(influence, how, k=k)
    scales = np.array([1e-3, 1.0, 50.0])[None, :, None]  # each query may have a scale of its own
    for transformed in (influence**3, np.exp(influence / 4), 2 * influence + 5, scales * influence):
        np.testing.assert_array_equal(aggregate(transformed, how, k=k), before)


@quick
@given(influence=hnp.arrays(np.float64, (2, 3, 8), elements=st.integers(-20, 20).map(float)))
def test_standardised_does_not_see_scale_and_shift_of_a_row(influence: np.ndarray):
    scales, shifts = (np.array(v)[None, :, None] for v in ([1e-3, 1.0, 50.0], [0.0, 7.0, -2.0]))
    np.testing.assert_allclose(
        aggregate(scales * influence + shifts, "standardised"), aggregate(influence, "standardised"), **close
    )


@pytest.mark.parametrize("how", ["mean", "median", "trimmed", "minimum"])
def test_what_averages_influence_does_see_the_scale(how: str):
    influence = random_influence()
    np.testing.assert_allclose(aggregate(4 * influence, how), 4 * aggregate(influence, how), rtol=1e-12)
    assert not np.allclose(aggregate(influence**3, how), aggregate(influence, how))


@each_aggregation
@quick
@given(data=st.data())
def test_a_mask_is_the_tensor_of_those_queries(how: str, data: st.DataObject):
    problem = replace(data.draw(problems(how)), queries=None)
    kept = sorted(data.draw(st.sets(st.sampled_from(range(problem.influence.shape[1])), min_size=1)))
    mask = [x in kept for x in range(problem.influence.shape[1])]
    masked, alone = replace(problem, queries=mask), picked(problem, "query", kept)
    assume(served(how, alone))
    np.testing.assert_array_equal(aggregated(how, masked), aggregated(how, alone))


@each_aggregation
def test_mask_that_leaves_nothing(how: str):
    with pytest.raises(ConfigError, match="leaves none to aggregate"):
        aggregate(random_influence(), how, queries=np.zeros(5, dtype=bool))
    with pytest.raises(ConfigError, match=r"none of the queries correctly, so --correct-only"):
        aggregate(random_influence(), how, only=["correct"], query_correct=np.zeros(5, dtype=bool))


@each_aggregation
def test_leaves_the_influence_alone(how: str):
    influence = random_influence()
    before = influence.copy()
    aggregate(influence, how)
    np.testing.assert_array_equal(influence, before)


@pytest.mark.parametrize("how", REDUCIBLE)
def test_equal_weights_are_no_weights(how: str):
    influence = random_influence()
    plain = aggregate(influence, how)
    np.testing.assert_allclose(aggregate(influence, how, query_weights=np.full(5, 7.0)), plain, rtol=1e-12)
    np.testing.assert_allclose(
        aggregate(influence, how, weigh="confidence", query_confidence=np.full(5, 0.5)), plain, rtol=1e-12
    )
    if how in SUMS:
        np.testing.assert_allclose(aggregate(influence, how, module_weights=[3.0] * 3), plain, rtol=1e-12)


@pytest.mark.parametrize("how", REDUCIBLE)
def test_a_weight_of_zero_is_no_query(how: str):
    influence, weights = random_influence(), np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    alone = aggregate(influence[:, [0, 2]], how)
    scale = 1.0 if how in ("mean", "standardised") else 5 / 2  # sums are those of as many queries as count
    np.testing.assert_allclose(aggregate(influence, how, query_weights=weights), scale * alone, rtol=1e-12)


def test_vote_of_one_sample_a_row():
    influence = random_influence(1, 30, 10)
    lowest = np.bincount(influence[0].argmin(1), minlength=10)
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1 / 10), -lowest)
    # However small k is, one sample votes.
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1e-6), -lowest)


def test_vote_of_all_samples_is_rank():
    influence = random_influence(2, 5, 40)
    rows = 2 * 5
    for k in (1.0, 40):
        np.testing.assert_array_equal(aggregate(influence, "vote", k=k) + rows * 40, aggregate(influence, "rank"))


def test_vote_by_number_and_by_share():
    influence = random_influence()
    np.testing.assert_array_equal(aggregate(influence, "vote", k=12), aggregate(influence, "vote", k=0.3))


def test_all_votes_are_the_average_over_every_k():
    """At fractions of a sample too: the integral, by a sum over fine steps."""
    influence = random_influence(1, 4, 6)
    r = np.array([[reference.ranks(row) for row in influence[0].tolist()]], dtype=float)
    steps = (np.arange(60_000) + 0.5) * 6 / 60_000
    votes = np.maximum(steps - r[..., None], 0).mean(axis=-1)  # over k from 0 to 6
    np.testing.assert_allclose(aggregate(influence, "vote-all"), -(votes / 3).sum(axis=(0, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("k", "n", "count"), [(0.3, 10, 3), (0.3, 4500, 1350), (0.34, 10, 3), (0.01, 10, 1), (1.0, 7, 7), (50.0, 60, 50)]
)
def test_votes_are_whole_samples(k: float, n: int, count: int):
    assert vote_count(k, n) == count


@pytest.mark.parametrize("k", [0.0, -0.1, 1.01, 30.5, float("nan"), float("inf")])
@each_aggregation
def test_k_outside_its_range(how: str, k: float):
    with pytest.raises(ConfigError, match=r"--k .* is outside its range.*above 0 and at most 1, or a whole number"):
        aggregate(random_influence(), how, k=k)


def test_more_votes_than_samples():
    with pytest.raises(ConfigError, match="--k 41 is more than the 40 samples"):
        aggregate(random_influence(), "vote", k=41)


def test_unknown_aggregation():
    with pytest.raises(ConfigError, match=rf"--aggregate best is not known. Known are: {', '.join(AGGREGATIONS)}\."):
        aggregate(random_influence(), "best")


# 401 rows whose ranks are known: totals pass 2^24, where float32 loses every second integer.
N, ROWS = 50_000, 401


@pytest.mark.parametrize("shape", [(ROWS, 1), (1, ROWS)])
def test_totals_over_50_000_samples_keep_their_digits(shape: tuple[int, int]):
    influence = np.broadcast_to(np.linspace(-1, 1, N, dtype=np.float32), (*shape, N))
    r = np.arange(N, dtype=np.int64)
    np.testing.assert_array_equal(aggregate(influence, "rank"), ROWS * r)
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1.0), ROWS * (r - N))


def test_mean_over_many_queries_keeps_its_digits():
    influence = np.full((1, 20_000, 3), 0.1, dtype=np.float32)
    influence[0, 0] = [1e6, 0.0, -1e6]
    expected = influence[0].astype(np.float64).sum(0) / 20_000
    np.testing.assert_allclose(aggregate(influence, "mean"), expected, rtol=1e-13)


@each_aggregation
def test_has_a_summary(how: str):
    summary = AGGREGATIONS[how].summary
    assert 10 < len(summary) < 90
    assert "\n" not in summary
