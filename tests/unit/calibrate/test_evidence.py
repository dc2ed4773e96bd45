import numpy as np
import pytest

from undertow.calibrate.evidence import TOTALS, Seen, heard, standing_evidence
from undertow.calibrate.told import Told, read_by

from .scores import Modelled, modelled


def evidence(made: Modelled, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    reading = read_by(made.trusted)
    return standing_evidence(made.rest, made.canaries, seen, np.full(len(reading.priors), 0.1), 0.25, reading)


def standing_at(made: Modelled, canaries: np.ndarray) -> Seen:
    return Seen(np.linspace(0, 1, len(made.rest)), canaries)


@pytest.mark.parametrize("classes", [2, 20])
def test_the_farther_canaries_stand_out_the_less_can_be_wrong(classes: int):
    made, random = modelled(0.1, seed=0, classes=classes), np.random.default_rng(0)
    at_top = 1 - 0.1 * random.random(len(made.canaries))
    far = heard(*summed(*evidence(made, standing_at(made, at_top))))
    near = heard(*summed(*evidence(made, standing_at(made, random.random(len(made.canaries))))))
    assert far.max() == near.max() == 0
    assert far[TOTALS > 0.25].max() < -5
    assert near[TOTALS > 0.25].max() > far[TOTALS > 0.25].max() + 5


def summed(by_canary: np.ndarray, beliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return by_canary.sum(axis=2), beliefs


@pytest.mark.parametrize("classes", [2, 20])
def test_every_canary_speaks_for_itself(classes: int):
    """Also where labels have so few canaries that they are taken together."""
    made, random = modelled(0.1, seed=1, classes=classes), np.random.default_rng(1)
    stand, order = random.random(len(made.canaries)), random.permutation(len(made.canaries))
    whole, beliefs = evidence(made, standing_at(made, stand))
    assert whole.shape == (len(TOTALS), len(beliefs), len(made.canaries))
    assert np.isfinite(whole).all()
    moved = Modelled(made.rest, made.canaries.take(order), made.trusted, made.bad)
    again, _ = evidence(moved, standing_at(made, stand[order]))
    assert again == pytest.approx(whole[:, :, order])


def test_a_label_that_only_canaries_carry():
    made = modelled(0.1, seed=2, classes=3)
    rest = Told(made.rest.probabilities, np.where(made.rest.labels == 2, 0, made.rest.labels))
    lonely = Modelled(rest, made.canaries, made.trusted, made.bad)
    by_canary, _ = evidence(lonely, standing_at(lonely, np.linspace(0, 1, len(made.canaries))))
    assert np.isfinite(by_canary).all()
