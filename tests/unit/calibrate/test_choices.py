import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from undertow.calibrate.choices import average, held_out_choice, held_out_folds, rank_choices
from undertow.calibrate.contest import contest
from undertow.calibrate.learned import RIDGE, learned_harm
from undertow.calibrate.standing import matched, standing, standings
from undertow.metrics.noise import auroc

from .scores import choices


def alike(harm: np.ndarray) -> np.ndarray:
    """One label for all samples."""
    return np.zeros(harm.shape[1], dtype=np.int64)


VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_mean_standing_is_the_auroc(canaries: list[int], rest: list[int]):
    harm = np.array(canaries + rest, dtype=float)
    is_canary = np.arange(len(harm)) < len(canaries)
    assert standing(harm[is_canary], harm[~is_canary]).mean() == pytest.approx(auroc(harm, is_canary))


@settings(deadline=None)
@given(VALUES, VALUES)
def test_standing_knows_order_alone(values: list[int], rest: list[int]):
    some, others = np.array(values, dtype=float), np.array(rest, dtype=float)
    assert np.array_equal(standing(some, others), standing(np.exp(some), np.exp(others)))


@settings(deadline=None)
@given(VALUES, VALUES)
def test_matched_values_keep_their_order_and_take_the_reference(values: list[int], rest: list[int]):
    some, others = np.array(values, dtype=float), np.array(rest, dtype=float)
    found = matched(some, others)
    assert found.min() >= others.min()
    assert found.max() <= others.max()
    order = np.argsort(some)
    assert (np.diff(found[order]) >= 0).all()
    assert (np.diff(found[order])[np.diff(some[order]) == 0] == 0).all()


def test_matched_takes_a_shift_away():
    random = np.random.default_rng(0)
    rest, shifted = random.normal(size=2000), random.normal(size=200) + 1.5
    assert standing(shifted, rest).mean() > 0.8
    assert standing(matched(shifted, rest), rest).mean() == pytest.approx(0.5, abs=0.01)


def test_among_rows_of_one_label_a_lean_towards_it_is_without_effect():
    harm, rest, canaries, _, bad = choices(3000, 200, [1.5, 0.0], seed=5)
    labels = np.random.default_rng(0).integers(0, 2, harm.shape[1])
    leaning = harm + 4 * labels
    found = standings(leaning, rest, labels)
    assert found[0, canaries].mean() == pytest.approx(standings(harm, rest, labels)[0, canaries].mean(), abs=0.01)
    assert auroc(found[0, rest], bad) > auroc(leaning[0, rest], bad) + 0.1
    assert found[:, rest].mean(axis=1) == pytest.approx(0.5, abs=0.002)


@settings(deadline=None)
@given(VALUES, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_standings_stay_within_bounds_and_keep_the_order_of_a_label(values: list[int], labels: list[int]):
    harm, of = np.array([values], dtype=float), np.array(labels[: len(values)])
    rest = np.arange(0, len(values), 2)
    found = standings(harm, rest, of)[0]
    assert ((found >= 0) & (found <= 1)).all()
    for label in set(of.tolist()):
        mine = np.flatnonzero(of == label)
        order = mine[np.argsort(harm[0, mine], kind="stable")]
        assert (np.diff(found[order]) >= -1e-12).all()
    alone = np.flatnonzero(~np.isin(of, of[rest]))
    assert np.allclose(found[alone], standing(harm[0, alone], harm[0, rest]))


def test_the_best_choice_leads_and_ties_go_to_the_cheaper():
    harm, rest, canaries, _, _ = choices(1000, 100, [0.0, 2.0, 0.5], seed=0)
    harm = np.vstack([harm, harm[1]])  # the same as the best, and cheaper
    u = standings(harm, rest, alike(harm))[:, canaries]
    found = rank_choices(u, [1, 9, 1, 2])
    assert found.order[:2].tolist() == [3, 1]
    assert found.chosen == 3
    assert set(found.tied) == {1, 3}
    assert (found.low < found.auroc).all()
    assert (found.auroc < found.high).all()
    assert found.auroc[0] == pytest.approx(0.5, abs=0.1)


def test_the_order_of_choices_and_samples_does_not_matter():
    harm, rest, canaries, _, _ = choices(300, 50, [0.2, 1.0, 2.0, 0.5], seed=1)
    found = rank_choices(standings(harm, rest, alike(harm))[:, canaries], [1, 2, 3, 4])
    moved, random = np.array([2, 0, 3, 1]), np.random.default_rng(0)
    shuffled = np.concatenate([random.permutation(rest), random.permutation(canaries)])
    again = rank_choices(standings(harm[moved][:, shuffled], rest, alike(harm[:, shuffled]))[:, canaries], [3, 1, 4, 2])
    assert again.auroc == pytest.approx(found.auroc[moved])
    assert moved[again.order].tolist() == found.order.tolist()


def test_held_out_choice_does_not_reward_chance():
    """Of many choices that know nothing, the best looks good to the canaries that chose it, not to the others."""
    harm, rest, canaries, _, _ = choices(500, 60, [0.0] * 200, seed=2)
    u = standings(harm, rest, alike(harm))
    assert u[:, canaries].mean(axis=1).max() > 0.6
    held_out = held_out_choice(u, rest, canaries, held_out_folds(60, 5, seed=0), few=1)
    assert held_out.mean() < 0.56


def test_the_average_of_independent_choices_beats_each():
    harm, rest, canaries, twins, bad = choices(2000, 100, [1.0] * 12, seed=3)
    u = standings(harm, rest, alike(harm))
    found = contest(u, rest, canaries, twins, np.ones(12), times=200)
    assert found.winner in ("average", "learned")
    assert auroc(found.harm[rest], bad) > max(auroc(h[rest], bad) for h in harm) + 0.1
    assert [e.name for e in found.entries] == ["learned", "average", "single"]


def test_what_is_surely_better_than_the_learned_one_replaces_it():
    harm, rest, canaries, twins, bad = choices(1500, 150, [3.0, *[0.0] * 30], seed=4)
    u = standings(harm, rest, alike(harm))
    found = contest(u, rest, canaries, twins, np.ones(31), fixed={"paper": u[5]}, times=300)
    assert found.winner == "single"
    assert found.averaged.tolist() == [0]
    assert auroc(found.harm[rest], bad) > 0.95
    assert next(e for e in found.entries if e.name == "paper").auroc[0] < 0.7
    assert found.held_out.mean() == pytest.approx(next(e for e in found.entries if e.name == "single").auroc[0])


def test_where_nothing_separates_the_learned_one_stays():
    harm, rest, canaries, twins, _ = choices(500, 60, [0.0] * 40, seed=5)
    found = contest(standings(harm, rest, alike(harm)), rest, canaries, twins, np.ones(40), times=200)
    assert found.winner == "learned"
    assert found.entries[0].auroc[1] < 0.5 < found.entries[0].auroc[2]


def apart(count: int, alone: int) -> np.ndarray:
    """The last few of some choices stand for themselves."""
    return np.arange(count) >= count - alone


def test_two_sources_are_better_than_each():
    harm, rest, canaries, twins, bad = choices(2000, 100, [*[0.9] * 5, 1.3], seed=7)
    u = standings(harm, rest, alike(harm))
    found = learned_harm(u, rest, canaries, twins, apart(6, 1), seed=0)
    both = [average(u[:5], np.arange(5)), u[5]]
    assert auroc(found.harm[rest], bad) > max(auroc(one[rest], bad) for one in both)
    assert found.weights.sum() == pytest.approx(1)
    assert (found.weights > 0.2).all()


def test_what_tells_nothing_gets_little_weight_though_the_best_of_many_is_chosen():
    """The few that canaries chose look good to these canaries; they are weighed by others."""
    harm, rest, canaries, twins, bad = choices(1000, 60, [*[0.0] * 300, 1.5], seed=8)
    u = standings(harm, rest, alike(harm))
    found = learned_harm(u, rest, canaries, twins, apart(301, 1), seed=0)
    assert found.weights[1] > 0.8
    assert auroc(found.harm[rest], bad) > auroc(u[300, rest], bad) - 0.03
    other = learned_harm(u[::-1], rest, canaries, twins, ~apart(301, 300), seed=0)
    assert other.weights[1] > 0.8


def test_no_sample_is_scored_by_weights_that_it_had_a_part_in():
    """Canaries that a source tells by chance must not look better by it."""
    random = np.random.default_rng(0)
    n, c = 60, 30
    noise = random.random((200, n + 2 * c))
    rest, canaries = np.arange(n), np.arange(n, n + c)
    found = learned_harm(noise, rest, canaries, canaries + c, apart(200, 100), seed=0)
    assert 0.3 < auroc(found.harm[: n + c], np.arange(n + c) >= n) < 0.7


def test_the_weights_are_the_least_of_their_cost():
    """Against a grid of all weights of two sources."""
    harm, rest, canaries, twins, _ = choices(400, 60, [0.5, 1.2], seed=9)
    u = standings(harm, rest, alike(harm))
    found = learned_harm(u, rest, canaries, twins, np.ones(2, dtype=bool), seed=0)
    z = ndtri(np.clip(u, 0.002, 0.998))
    covariance = np.cov(z[:, rest]) + RIDGE * np.eye(2)
    ahead = z[:, canaries].mean(axis=1) - z[:, rest].mean(axis=1)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201)), axis=-1).reshape(-1, 2)
    cost = 0.5 * np.einsum("gi,ij,gj->g", grid, covariance, grid) - grid @ ahead
    best = grid[int(np.argmin(cost))]
    assert found.weights == pytest.approx(best / best.sum(), abs=0.05)


def test_the_learned_order_does_not_depend_on_the_order_of_choices():
    harm, rest, canaries, twins, _ = choices(300, 60, [1.0, 0.3, 2.0, 0.1], seed=6)
    u = standings(harm, rest, alike(harm))
    found = learned_harm(u, rest, canaries, twins, apart(4, 1), seed=0)
    again = learned_harm(u[[2, 0, 1, 3]], rest, canaries, twins, apart(4, 1), seed=0)
    assert again.harm == pytest.approx(found.harm, abs=1e-9)
    assert again.weights == pytest.approx(found.weights)


def test_averages_are_of_the_best_few():
    u = np.array([[0.1, 0.9], [0.5, 0.7], [0.0, 0.0]])
    assert average(u, np.array([1, 0, 2]), few=2) == pytest.approx([0.3, 0.8])
