"""Against references written from the equation, one row at a time, and on rows whose flips gather as they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from undertow.calibrate.gathering import ALIKE, ENOUGH, GATHERINGS, SURE, USUAL, Gathered, gathered
from undertow.calibrate.share import estimate_share
from undertow.calibrate.told import Told

NONE, SOME = 0, int(np.argmin(np.abs(GATHERINGS - 0.4)))


def flipped(
    rows: int, gathering: float, rates: list[float], *, seed: int, sure: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a model that is right as often as it says, labels, and which of them are flipped."""
    random, classes = np.random.default_rng(seed), len(rates)
    p = random.dirichlet(np.full(classes, sure), size=rows)
    true = (random.random(rows)[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    hard = (1 - p[np.arange(rows), true]) * classes / (classes - 1)
    odds = np.array(rates)[true] + gathering * np.log(np.maximum(hard, SURE))
    bad = random.random(rows) < 1 / (1 + np.exp(-odds))
    return p, np.where(bad, (true + random.integers(1, classes, size=rows)) % classes, true), bad


def brute(p: np.ndarray, labels: np.ndarray, strength: float, rates: np.ndarray) -> tuple[float, float]:
    """Logarithm of the likelihood of the labels, and mean probability that they are wrong."""
    classes, logs, wrongs = p.shape[1], [], []
    for row, label in zip(np.maximum(p, SURE), labels, strict=True):
        q = row / row.sum()
        hard = [max((1 - q[t]) * classes / (classes - 1), SURE) for t in range(classes)]
        w = [1 / (1 + np.exp(-(rates[t] + strength * np.log(hard[t])))) for t in range(classes)]
        right = q[label] * (1 - w[label])
        wrong = sum(q[t] * w[t] / (classes - 1) for t in range(classes) if t != label)
        logs.append(np.log(right + wrong))
        wrongs.append(wrong / (right + wrong))
    return float(np.sum(logs)), float(np.mean(wrongs))


def held(rates: np.ndarray) -> float:
    """What it costs that rates differ: by half of the squared difference of each two, of two classes once."""
    pairs = itertools.combinations(rates, 2)
    return sum(0.5 * ((a - b) / ALIKE) ** 2 for a, b in pairs) / (len(rates) - 1)


@pytest.mark.parametrize("rates", [[-2.0, -1.0], [-2.0, -1.5, -1.0]])
def test_likelihood_shares_and_rates_are_those_of_the_equation(rates: list[float]):
    p, labels, _ = flipped(250, 0.4, rates, seed=0, sure=1.0)
    found = gathered(np.log(p), labels)
    for i, strength in enumerate(GATHERINGS):
        likelihood, share = brute(p, labels, strength, found.rates[i])
        assert found.likelihood[i] == pytest.approx(likelihood)
        assert found.shares[i] == pytest.approx(share)
        slope = approx_fprime(
            found.rates[i], lambda at, strength=strength: brute(p, labels, strength, at)[0] - held(at), 1e-5
        )
        assert slope == pytest.approx(np.zeros(len(rates)), abs=0.05)


def test_gathering_is_told_from_flips_of_every_kind():
    """Of a model that tells classes well: flips alike and flips of one class are not taken to gather, hard ones are."""
    told = {}
    for name, gathering, rates in (
        ("alike", 0.0, [-1.5, -1.5]),
        ("one", 0.0, [-4.0, -1.0]),
        ("hard", 0.4, [-0.7, -0.7]),
    ):
        probable = [
            gathered(np.log(p), labels).probable
            for p, labels, _ in (flipped(ENOUGH, gathering, rates, seed=seed) for seed in range(3))
        ]
        told[name] = np.mean([1 - each[NONE] for each in probable])
    assert told["alike"] < 0.1
    assert told["one"] < 0.1
    assert told["hard"] > 0.8


@pytest.mark.parametrize("rates", [[-0.5, -0.5], [-1.0, -0.3], [-0.5, -0.5, -0.5, -0.5]])
def test_the_share_is_moved_to_what_gathers(rates: list[float]):
    """The share that takes flips to be spread evenly is too low; what is moved by the strength that holds is not."""
    off = []
    for seed in range(4):
        p, labels, bad = flipped(6000, GATHERINGS[SOME], rates, seed=seed)
        found = gathered(np.log(p), labels)
        moved = found.moved(float(found.shares[NONE]))
        assert moved == pytest.approx(found.shares)
        off.append(moved - bad.mean())
    assert np.mean(off, axis=0)[NONE] < -0.03
    assert np.mean(off, axis=0)[SOME] == pytest.approx(0, abs=0.015)


def test_the_estimate_holds_what_gathers():
    p, labels, bad = flipped(6200, 0.4, [-0.7, -0.7], seed=2)
    trusted, true, _ = flipped(1000, 0.0, [-30.0, -30.0], seed=3)
    rest, canaries = (Told(p[part], labels[part], held_out=True) for part in (slice(6000), slice(6000, None)))
    taught = Told(canaries.probabilities, canaries.labels, 1 - canaries.labels, held_out=True)
    found = estimate_share(rest, taught, Told(trusted, true, held_out=True), times=50)
    assert found.gathering > 0.8
    assert found.value == pytest.approx(bad[:6000].mean(), abs=0.03)
    assert found.low <= bad[:6000].mean() <= found.high


def test_who_knows_nothing_says_nothing_of_gathering():
    random = np.random.default_rng(0)
    found = gathered(np.log(np.full((500, 3), 1 / 3)), random.integers(0, 3, 500))
    assert found.probable == pytest.approx(USUAL, rel=1e-3)
    assert found.moved(0.3) == pytest.approx(np.full(len(USUAL), 0.3), rel=1e-3)


def test_more_rows_than_enough_speak_as_loud_as_enough():
    p, labels, _ = flipped(ENOUGH, 0.4, [-1.0, -1.0], seed=4)
    once, thrice = (gathered(np.log(np.tile(p, (k, 1))), np.tile(labels, k)) for k in (1, 3))
    assert thrice.likelihood == pytest.approx(once.likelihood, abs=0.5)


@settings(deadline=None)
@given(st.floats(0, 0.9), st.lists(st.floats(0, 0.9), min_size=4, max_size=4))
def test_moved_shares_are_shares_in_the_order_of_what_moves_them(even: float, shares: list[float]):
    found = Gathered(np.zeros(4), np.sort(shares), np.zeros((4, 2)))
    moved = found.moved(even)
    assert ((moved >= 0) & (moved < 1)).all()
    assert (np.diff(moved) >= -1e-12).all()
    assert moved[NONE] == pytest.approx(even, abs=1e-5)
    if even == 0:
        assert not moved.any()


@settings(max_examples=10, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 5))
def test_names_of_classes_and_where_it_begins_do_not_matter(order: list[int], seed: int):
    p, labels, _ = flipped(400, 0.4, [-2.0, -1.5, -1.0], seed=seed)
    found = gathered(np.log(p), labels)
    again = gathered(np.log(p[:, order]), np.argsort(order)[labels], found)
    assert again.likelihood == pytest.approx(found.likelihood, abs=1e-3)
    assert again.shares == pytest.approx(found.shares, abs=1e-3)


def test_a_model_that_learned_from_the_rows_asks_one_that_did_not():
    p, labels, _ = flipped(4200, 0.4, [-0.7, -0.7], seed=2)
    trusted, true, _ = flipped(1000, 0.0, [-30.0, -30.0], seed=3)
    rest, canaries = (Told(p[part], labels[part]) for part in (slice(4000), slice(4000, None)))
    taught, known = Told(canaries.probabilities, canaries.labels, 1 - canaries.labels), Told(trusted, true)
    beside = Told(rest.probabilities, rest.labels, held_out=True), Told(trusted, true, held_out=True)
    alone = estimate_share(rest, taught, known, times=2)
    asking = estimate_share(rest, taught, known, unlearned=beside, times=2)
    assert alone.gathering is None
    assert asking.gathering is not None
    assert asking.gathering > 0.8
    assert asking.memory == alone.memory
    assert asking.value > alone.value + 0.02
