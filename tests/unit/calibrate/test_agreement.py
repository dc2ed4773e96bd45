import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow.calibrate.agreement import agreed_power, at_power
from undertow.calibrate.told import Told


def opinions(n: int, strength: float, sure: float, seed: int, classes: int = 2, models: int = 4) -> list[Told]:
    """What models say that see the truth with independent errors, as if its strength were ``sure``."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    found = []
    for _ in range(models):
        scores = random.normal(size=(n, classes))
        scores[np.arange(n), labels] += strength
        logits = sure * scores
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        found.append(Told(p, labels, held_out=True))
    return found


@pytest.mark.parametrize("classes", [2, 4])
def test_models_that_agree_as_well_are_as_sure(classes):
    rows, trusted = (opinions(4000, 1.0, 1.0, seed, classes) for seed in (0, 1))
    assert agreed_power(rows, trusted) > 0.93


@pytest.mark.parametrize("classes", [2, 4])
def test_models_that_see_less_agree_less_and_are_less_sure(classes):
    trusted = opinions(6000, 1.2, 1.2, 0, classes)
    worse, worst = (opinions(6000, strength, 1.2, 1, classes) for strength in (1.0, 0.7))
    assert 1 > agreed_power(worse, trusted) > agreed_power(worst, trusted) > 0


def test_a_model_that_knows_nothing_has_no_say():
    random = np.random.default_rng(3)

    def blind(n: int, sure: float) -> Told:
        return Told(random.dirichlet([sure, sure], n), random.integers(0, 2, n), held_out=True)

    rows, trusted = opinions(3000, 1.0, 1.2, 0), opinions(3000, 1.2, 1.2, 1)
    alone = agreed_power(rows, trusted)
    assert alone < 0.95
    assert agreed_power([*rows, blind(3000, 5)], [*trusted, blind(3000, 1)]) == pytest.approx(alone, abs=0.04)


def test_models_that_agree_better_do_not_become_surer():
    assert agreed_power(opinions(3000, 1.5, 1.0, 0), opinions(3000, 0.8, 0.8, 1)) == 1


def test_labels_of_the_rows_play_no_part():
    rows, trusted = opinions(500, 0.6, 1.0, 0), opinions(500, 1.0, 1.0, 1)
    flipped = [Told(told.probabilities, 1 - told.labels, held_out=True) for told in rows]
    assert agreed_power(rows, trusted) == agreed_power(flipped, trusted)


def test_one_model_has_nobody_to_agree_with():
    assert agreed_power(opinions(50, 1.0, 1.0, 0, models=1), opinions(50, 1.0, 1.0, 1, models=1)) == 1


@given(st.floats(0.01, 0.99), st.floats(0.05, 0.95))
def test_a_power_takes_log_odds_towards_those_of_the_classes(p: float, prior: float):
    told, priors = Told(np.array([[p, 1 - p]]), np.array([0])), np.array([prior, 1 - prior])
    assert at_power(told, 1.0, priors).probabilities == pytest.approx(told.probabilities)
    assert at_power(told, 0.0, priors).probabilities[0] == pytest.approx(priors)
    half = at_power(told, 0.5, priors).probabilities[0]
    expected = 0.5 * (np.log(p / (1 - p)) + np.log(prior / (1 - prior)))
    assert np.log(half[0] / half[1]) == pytest.approx(expected)
