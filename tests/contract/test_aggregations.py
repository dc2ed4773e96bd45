"""What every aggregation must do, and how a harm score becomes a decision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undertow.aggregation import additive
from undertow.aggregation.additive import AGGREGATIONS, aggregate, combine, module_score, ranks, vote_count
from undertow.aggregation.cut import flag, harm_ranks
from undertow.errors import ConfigError

from . import reference

each_aggregation = pytest.mark.parametrize("how", AGGREGATIONS)
by_order = pytest.mark.parametrize("how", ["rank", "vote"])
quick = settings(max_examples=30, deadline=None)

shares = st.floats(0.01, 1.0)
# Few values make ties the rule; infinities must not come, the tensor is checked before.
tied = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0])
tensors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)),
    elements=st.one_of(tied, st.floats(-1e3, 1e3, width=32)),
)


def expected_score(influence: np.ndarray, how: str, k: float) -> np.ndarray:
    assert how in reference.AGGREGATIONS, f"write the equation of {how} in {reference.__file__}"
    rows = influence.astype(np.float64).reshape(-1, influence.shape[-1])
    return np.array(reference.AGGREGATIONS[how](rows.tolist(), k))


def random_influence(modules: int = 3, queries: int = 5, samples: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((modules, queries, samples)).astype(np.float32)


@quick
@given(rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=tied))
def test_ranks_count_what_is_strictly_below(rows: np.ndarray):
    assert ranks(rows).tolist() == [reference.ranks(row) for row in rows.tolist()]


def test_ranks_of_a_long_row():
    row = np.random.default_rng(0).integers(0, 300, (1, 2000)).astype(np.float32)
    assert ranks(row).tolist() == [reference.ranks(row[0].tolist())]


def test_ranks_of_equal_values():
    assert ranks(np.zeros((2, 5), dtype=np.float32)).tolist() == [[0] * 5] * 2
    assert ranks(np.array([[0.0, -0.0]])).tolist() == [[0, 0]]


@each_aggregation
@quick
@given(influence=tensors, k=shares)
def test_equals_its_equation(how: str, influence: np.ndarray, k: float):
    found = aggregate(influence, how, k=k)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected_score(influence, how, k), rtol=1e-12, atol=1e-9)


@each_aggregation
def test_modules_reduced_one_by_one_give_the_same(how: str):
    influence = random_influence()
    scores = [module_score(block, how, 0.2) for block in influence]
    np.testing.assert_allclose(combine(scores, how, 5), aggregate(influence, how, k=0.2), rtol=1e-12)


@each_aggregation
@quick
@given(influence=tensors, k=shares, data=st.data())
def test_order_of_modules_queries_and_samples(how: str, influence: np.ndarray, k: float, data: st.DataObject):
    m, q, s = (data.draw(st.permutations(range(size))) for size in influence.shape)
    before = aggregate(influence, how, k=k)
    np.testing.assert_allclose(aggregate(influence[m], how, k=k), before, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(aggregate(influence[:, q], how, k=k), before, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(aggregate(influence[:, :, s], how, k=k), before[s], rtol=1e-12, atol=1e-9)


@each_aggregation
@quick
@given(influence=tensors, k=shares)
def test_duplicate_samples_tie(how: str, influence: np.ndarray, k: float):
    doubled = np.concatenate([influence, influence], axis=2)
    found = aggregate(doubled, how, k=k)
    np.testing.assert_array_equal(found[: influence.shape[2]], found[influence.shape[2] :])


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


@by_order
@quick
@given(influence=hnp.arrays(np.float64, (2, 3, 8), elements=st.integers(-20, 20).map(float)), k=shares)
def test_monotone_transforms_change_nothing(how: str, influence: np.ndarray, k: float):
    before = aggregate(influence, how, k=k)
    scales = np.array([1e-3, 1.0, 50.0])[None, :, None]  # each query may have a scale of its own
    for transformed in (influence**3, np.exp(influence / 4), 2 * influence + 5, scales * influence):
        np.testing.assert_array_equal(aggregate(transformed, how, k=k), before)


def test_mean_does_see_the_scale():
    influence = random_influence()
    np.testing.assert_allclose(aggregate(4 * influence, "mean"), 4 * aggregate(influence, "mean"), rtol=1e-12)
    assert not np.allclose(aggregate(influence**3, "mean"), aggregate(influence, "mean"))


def test_vote_of_one_sample_a_row():
    influence = random_influence(1, 30, 10)
    lowest = np.bincount(influence[0].argmin(1), minlength=10)
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1 / 10), -lowest)
    # However small k is, one sample votes.
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1e-6), -lowest)


def test_vote_of_all_samples_is_rank():
    influence = random_influence(2, 5, 40)
    rows = 2 * 5
    np.testing.assert_array_equal(aggregate(influence, "vote", k=1.0) + rows * 40, aggregate(influence, "rank"))


@pytest.mark.parametrize(
    ("k", "n", "count"), [(0.3, 10, 3), (0.3, 4500, 1350), (0.34, 10, 3), (0.01, 10, 1), (1.0, 7, 7)]
)
def test_votes_are_whole_samples(k: float, n: int, count: int):
    assert vote_count(k, n) == count


@each_aggregation
def test_query_mask(how: str):
    influence = random_influence()
    mask = np.array([True, False, True, False, False])
    np.testing.assert_array_equal(aggregate(influence, how, queries=mask), aggregate(influence[:, mask], how))
    np.testing.assert_array_equal(aggregate(influence, how, queries=np.ones(5, dtype=bool)), aggregate(influence, how))


@each_aggregation
def test_mask_that_leaves_nothing(how: str):
    with pytest.raises(ConfigError, match=r"none of the queries correctly, so --correct-only"):
        aggregate(random_influence(), how, queries=np.zeros(5, dtype=bool))


@pytest.mark.parametrize("k", [0.0, -0.1, 1.01, 30.0, float("nan")])
def test_k_outside_its_range(k: float):
    for how in AGGREGATIONS:
        with pytest.raises(ConfigError, match=r"--k .* is outside its range.*above 0, at most 1"):
            aggregate(random_influence(), how, k=k)


def test_unknown_aggregation():
    with pytest.raises(ConfigError, match=r"--aggregate median is not known. Known are: mean, rank, vote\."):
        aggregate(random_influence(), "median")


@each_aggregation
def test_leaves_the_influence_alone(how: str):
    influence = random_influence()
    before = influence.copy()
    aggregate(influence, how)
    np.testing.assert_array_equal(influence, before)


# 401 rows whose ranks are known: totals pass 2^24, where float32 loses every second integer.
N, ROWS = 50_000, 401


def test_totals_over_50_000_samples_keep_their_digits():
    influence = np.broadcast_to(np.linspace(-1, 1, N), (ROWS, 1, N))
    r = np.arange(N, dtype=np.int64)
    np.testing.assert_array_equal(aggregate(influence, "rank"), ROWS * r)


@by_order
def test_totals_within_a_module_keep_their_digits(how: str, monkeypatch: pytest.MonkeyPatch):
    # Sorting 20 million values takes long and says nothing here: the ranks are given.
    r = np.arange(N, dtype=np.int32)
    monkeypatch.setattr(additive, "ranks", lambda influence: np.broadcast_to(r, influence.shape))
    total = np.abs(module_score(np.broadcast_to(np.float32(0), (ROWS, N)), how, 1.0))
    expected = ROWS * (r.astype(np.int64) if how == "rank" else N - r.astype(np.int64))
    np.testing.assert_array_equal(total, expected)


def test_mean_over_many_queries_keeps_its_digits():
    influence = np.full((1, 20_000, 3), 0.1, dtype=np.float32)
    influence[0, 0] = [1e6, 0.0, -1e6]
    expected = influence[0].astype(np.float64).sum(0) / 20_000
    np.testing.assert_allclose(aggregate(influence, "mean"), expected, rtol=1e-13)


harms = hnp.arrays(np.float64, st.integers(1, 30), elements=tied)


@quick
@given(harm=harms, seed=st.integers(0, 5))
def test_harm_ranks_are_a_permutation_that_follows_harm(harm: np.ndarray, seed: int):
    found = harm_ranks(harm, seed=seed)
    assert sorted(found.tolist()) == list(range(1, len(harm) + 1))
    assert (np.diff(harm[np.argsort(found)]) <= 0).all()
    np.testing.assert_array_equal(harm_ranks(harm, seed=seed), found)


def test_ties_are_not_broken_by_row_order():
    harm = np.array([0.0] * 200 + [1.0])
    first, second = harm_ranks(harm, seed=0), harm_ranks(harm, seed=1)
    assert first[-1] == second[-1] == 1
    assert not np.array_equal(first, second)
    # The lower rows are as likely as the upper to come first: 100 +- 4 standard deviations of their mean rank.
    assert abs(np.mean([harm_ranks(harm, seed=s)[:100].mean() for s in range(50)]) - 101.5) < 2.5


@quick
@given(harm=harms, share=st.floats(0, 1))
def test_flag_marks_the_worst_share(harm: np.ndarray, share: float):
    flagged = flag(harm_ranks(harm, seed=0), share)
    assert flagged.sum() == round(share * len(harm))
    if flagged.any() and not flagged.all():
        assert harm[flagged].min() >= harm[~flagged].max()
