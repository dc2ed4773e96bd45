"""Weights that canaries and doubts find together."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, ndtri

from undertow.calibrate.choices import held_out_folds
from undertow.calibrate.learned import BESIDE, FOLDS, RIDGE, learned_harm
from undertow.calibrate.mixture import Doubts, even_doubts
from undertow.calibrate.standing import standings
from undertow.metrics.noise import auroc

from .scores import choices


def labelled(rows: int, classes: int, share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How probable each row's label is to a model that is right as often as it says, and which labels are flipped."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.4), size=rows)
    true = (random.random(rows)[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    bad = random.random(rows) < share
    given = np.where(bad, (true + random.integers(1, classes, size=rows)) % classes, true)
    return p[np.arange(rows), given], bad


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.4])
def test_doubts_find_the_share_and_are_right_as_often_as_they_say(classes: int, share: float):
    own, bad = labelled(20_000, classes, share, seed=1)
    found = even_doubts(own, classes)
    assert found.wrong.mean() == pytest.approx(share, abs=0.015)
    assert found.contrast == pytest.approx(1 - share * classes / (classes - 1), abs=0.03)
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.9)):
        some = (found.wrong >= low) & (found.wrong < high)
        assert bad[some].mean() == pytest.approx(found.wrong[some].mean(), abs=2 / np.sqrt(some.sum()))


def test_doubts_are_at_the_share_of_the_highest_likelihood():
    own, _ = labelled(400, 3, 0.25, seed=2)
    shares = np.linspace(0.001, 0.6, 600)
    likelihood = [np.log((1 - s) * own + s * (1 - own) / 2).sum() for s in shares]
    best = shares[int(np.argmax(likelihood))]
    found = even_doubts(own, 3)
    expected = best * (1 - own) / 2 / ((1 - best) * own + best * (1 - own) / 2)
    assert found.wrong == pytest.approx(expected, abs=0.003)


def test_doubts_of_rows_without_any_and_of_rows_that_all_look_wrong():
    sure, lost = even_doubts(np.ones(50), 2), even_doubts(np.zeros(50), 2)
    assert sure.wrong.max() < 0.001
    assert sure.contrast == pytest.approx(1, abs=0.01)
    assert lost.wrong.min() > 0.99
    assert lost.contrast == pytest.approx(0.05, abs=0.001)  # never so low that canaries are divided by nothing


def test_canaries_stand_above_the_rest_by_the_contrast():
    """Of the distance between wrong and right rows, where a canary on a wrong row may get its true label."""
    random = np.random.default_rng(3)
    rows, share, distance = 200_000, 0.3, 1.5
    bad, righted = random.random(rows) < share, random.random(rows) < share / 3  # four classes
    rest = random.normal(size=rows) + distance * bad
    canaries = random.normal(size=rows) + distance * ~righted
    found = Doubts(bad.astype(float), 1 - share * 4 / 3)
    assert canaries.mean() - rest.mean() == pytest.approx(found.contrast * distance, abs=0.02)


def reference_weights(
    u: np.ndarray, rest: np.ndarray, canaries: np.ndarray, doubts: Doubts | None, seed: int
) -> np.ndarray:
    """Mean weights over the folds, one source at a time, by a general optimiser; every source stands for itself."""
    z = ndtri(np.clip(u, 0.002, 0.998))
    rows, planted = held_out_folds(len(rest), FOLDS, seed=seed), held_out_folds(len(canaries), FOLDS, seed=seed + 1)
    found = []
    for f in range(FOLDS):
        among, known = rest[rows != f], canaries[planted != f]
        d = []
        for source in z:
            ahead = source[known].mean() - source[among].mean()
            if doubts is not None:
                wrong = doubts.wrong[rows != f]
                told = np.average(source[among], weights=wrong) - np.average(source[among], weights=1 - wrong)
                precise = len(known) * doubts.contrast**2 / source[among].var()  # of what canaries say
                ahead = (precise * ahead / doubts.contrast + told / BESIDE**2) / (precise + 1 / BESIDE**2)
            d.append(ahead)
        c = np.cov(z[:, among]) + RIDGE * np.eye(len(z))

        def cost(w: np.ndarray, c: np.ndarray, d: list[float]) -> float:
            return float(0.5 * w @ c @ w - d @ w)

        w = minimize(
            cost, np.full(len(z), 0.5), (c, d), bounds=[(0, None)] * len(z), options={"ftol": 1e-15, "gtol": 1e-9}
        ).x
        found.append(w / w.sum())
    return np.mean(found, axis=0)


@pytest.mark.parametrize("doubted", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_weights_against_a_reference(share: float, doubted: bool):
    harm, rest, canaries, twins, bad = choices(600, 45, [0.5, 1.2, 0.9], seed=9, share=share)
    u = standings(harm, rest, np.zeros(harm.shape[1], dtype=np.int64))
    noise = np.random.default_rng(0).normal(size=600)
    doubts = Doubts(expit(2 * bad - 2 + noise), 1 - 2 * share) if doubted else None
    found = learned_harm(u, rest, canaries, twins, np.ones(3, dtype=bool), doubts, seed=4)
    assert found.weights == pytest.approx(reference_weights(u, rest, canaries, doubts, 4), abs=1e-4)


def beside(share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, Doubts]:
    """Thirty choices that tell nothing and one that does, few canaries many of which were put right, and doubts.

    The doubts are those of the choice that tells something.
    """
    harm, rest, canaries, twins, bad = choices(1500, 40, [*[0.0] * 30, 1.5], seed=seed, share=share)
    random = np.random.default_rng(seed)
    harm[:, canaries] = random.normal(size=(31, 40))
    harm[30, canaries] += 1.5 * (random.random(40) >= share)
    # Normal harm of deviation 1 and distance 1.5: log-odds of a wrong label, where half of them are.
    own = expit(-(1.5 * harm[30, rest] - 1.5**2 / 2))
    u = standings(harm, rest, np.zeros(harm.shape[1], dtype=np.int64))
    return u, rest, canaries, twins, bad, even_doubts(own, 2)


def test_doubts_say_what_few_canaries_cannot_where_much_is_wrong():
    alone, both, told = [], [], []
    apart = np.arange(31) == 30
    for seed in range(8):
        u, rest, canaries, twins, bad, doubts = beside(0.4, seed=seed)
        without = learned_harm(u, rest, canaries, twins, apart, seed=seed)
        found = learned_harm(u, rest, canaries, twins, apart, doubts, seed=seed)
        alone.append(without.weights[1])
        both.append(found.weights[1])
        told.append(auroc(found.harm[rest], bad) - auroc(u[30, rest], bad))
    assert min(both) > 0.9 > min(alone)
    assert np.mean(told) > -0.005


def test_doubts_that_know_nothing_leave_the_weights_to_the_canaries():
    harm, rest, canaries, twins, _ = choices(1000, 100, [0.0, 1.5], seed=11, share=0.1)
    u = standings(harm, rest, np.zeros(harm.shape[1], dtype=np.int64))
    blind = even_doubts(np.full(1000, 0.5), 2)
    found = learned_harm(u, rest, canaries, twins, np.ones(2, dtype=bool), blind, seed=0)
    assert found.weights[1] > 0.9


def test_of_many_choices_doubts_help_to_find_the_good_ones():
    """Forty canaries of which 40% were put right hardly tell a good choice from thirty that know nothing."""
    gains = []
    for seed in range(6):
        harm, rest, canaries, twins, bad = choices(1500, 40, [*[0.0] * 60, *[1.2] * 5], seed=seed, share=0.4)
        random = np.random.default_rng(100 + seed)
        harm[:, canaries] = random.normal(size=(65, 40)) + 1.2 * (np.arange(65) >= 60)[:, None] * (
            random.random(40) >= 0.4
        )
        u = standings(harm, rest, np.zeros(harm.shape[1], dtype=np.int64))
        doubts = Doubts(expit(random.normal(size=1500) + 1.2 * bad - 0.6), 0.2)
        apart = np.zeros(65, dtype=bool)
        one, other = (learned_harm(u, rest, canaries, twins, apart, d, few=5, seed=seed) for d in (doubts, None))
        assert len(set(one.averaged) & set(range(60, 65))) >= 4 > len(set(other.averaged) & set(range(60, 65)))
        gains.append(auroc(one.harm[rest], bad) - auroc(other.harm[rest], bad))
    assert min(gains) >= -0.01
    assert np.mean(gains) > 0.03
