import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.calibrate.cut import expected_cuts, suggest
from undertow.calibrate.goal import Goal
from undertow.calibrate.probability import probability_curve, probability_curves
from undertow.calibrate.share import Share, doubts, estimate_share
from undertow.calibrate.standing import standing
from undertow.errors import ConfigError

from .scores import modelled

SOME = Share(0.2, 0.15, 0.25, 0.25, 1.0)


def curve_of(share: float, seed: int, canaries: int = 100):
    """Standings, truth and curve where the harm is the loss and something beside it."""
    made, random = modelled(share, seed=seed, canaries=canaries), np.random.default_rng(seed)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=20, seed=seed)
    rest, planted = (
        -np.log(t.probabilities[np.arange(len(t)), t.labels]) + 0.3 * random.normal(size=len(t))
        for t in (made.rest, made.canaries)
    )
    ours, theirs = standing(rest, rest), standing(planted, rest)
    return ours, theirs, made.bad, found, doubts(made.rest, found)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_promised_precision_holds(share: float):
    promised, true = [], []
    for seed in range(4):
        ours, theirs, bad, found, doubted = curve_of(share, seed)
        wrong = probability_curve(ours, doubted, theirs, found.value, 2).at(ours)
        worst = np.argsort(-ours)[: round(share * len(ours))]
        promised.append(wrong[worst].mean())
        true.append(bad[worst].mean())
    assert np.mean(promised) == pytest.approx(np.mean(true), abs=0.06)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=5, max_size=40), st.floats(0.01, 0.6), st.integers(0, 9))
def test_the_curve_rises_and_its_mean_is_the_share(harm: list[int], share: float, seed: int):
    random = np.random.default_rng(seed)
    values = np.array(harm, dtype=float)
    ours = standing(values, values)
    theirs = standing(random.integers(0, 12, size=20).astype(float), values)
    wrong = probability_curve(ours, random.uniform(0.01, 0.9, len(ours)), theirs, share, 2)
    assert (np.diff(wrong.probability) >= -1e-12).all()
    assert wrong.at(ours).mean() == pytest.approx(share, abs=1e-6)
    assert ((wrong.probability > 0) & (wrong.probability < 1)).all()


def test_of_clean_data_nothing_is_wrong():
    ours = np.linspace(0, 1, 50)
    assert probability_curve(ours, np.full(50, 0.1), ours, 0.0, 2).at(ours).max() == 0


def test_canaries_bend_a_curve_that_is_too_flat():
    """The model doubts all rows nearly alike; canaries show that the harm separates."""
    random = np.random.default_rng(0)
    ours = (np.arange(1000) + 0.5) / 1000
    doubted = 0.2 + 0.05 * ours
    sharp, blunt = 1 - random.random(200) ** 2 * 0.25, random.random(200)
    assert probability_curve(ours, doubted, sharp, 0.2, 2).slope > 1.5
    assert probability_curve(ours, doubted, blunt, 0.2, 2).slope < 1.2


def test_cuts_of_known_probabilities():
    wrong = np.array([1.0, 0.8, 0.2, 0.0])
    cuts = expected_cuts(wrong, wrong / 2, np.minimum(wrong * 1.1, 1))
    assert cuts.precision == pytest.approx([1, 1, 0.9, 2 / 3, 0.5])
    assert cuts.recall == pytest.approx([0, 0.5, 0.9, 1, 1])
    assert cuts.precision_low == pytest.approx(cuts.precision / 2)
    assert suggest(cuts, SOME, 0.9).rows == 2
    assert suggest(cuts, SOME, 0.9, Goal(precision=0.95)).rows == 1
    assert suggest(cuts, SOME, 0.9, Goal(precision=0.6)).rows == 3
    assert suggest(cuts, SOME, 0.9, Goal(recall=0.95)).rows == 3
    assert suggest(cuts, SOME, 0.9, Goal(recall=0.4)).recall == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "auroc", "goal", "why"),
    [
        (Share(0.005, 0.0, 0.02, 0.25, 1.0), 0.9, None, "the labels look right (at most 2.0% of the rows are wrong"),
        (Share(0.02, 0.0, 0.2, 0.25, 1.0), 0.9, None, "cannot be told: anything from none to 20% of the rows"),
        (SOME, 0.52, None, "do not tell canaries from the rest"),
        (SOME, 0.9, Goal(precision=0.9), "no cut reaches"),
    ],
)
def test_where_there_is_no_evidence_nothing_is_cut(share: Share, auroc: float, goal: Goal | None, why: str):
    wrong = np.array([0.5, 0.4, 0.1])
    found = suggest(expected_cuts(wrong, wrong, wrong), share, auroc, goal)
    assert found.rows == 0
    assert why in found.refused


def test_a_class_that_was_not_learned_vouches_for_nothing():
    wrong = np.array([0.5, 0.4, 0.1])
    found = suggest(expected_cuts(wrong, wrong, wrong), Share(0.0, 0.0, 0.01, 0.25, 1.0), 0.9, unlearned="good")
    assert found.rows == 0
    assert "of the trusted rows labelled 'good' the model gets fewer right than chance" in found.refused


def test_clean_data_is_left_alone():
    flagged = []
    for seed in range(4):
        ours, theirs, _, found, doubted = curve_of(0.0, seed)
        curves = probability_curves(ours, doubted, theirs, found, 2)
        order = np.argsort(-ours)
        cuts = expected_cuts(*(c.at(ours[order]) for c in (curves.value, curves.low, curves.high)))
        flagged.append(suggest(cuts, found, 0.9).rows / len(ours))
    assert max(flagged) <= 0.01


def test_goals_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Goal(precision=1.5).check()
    with pytest.raises(ConfigError, match="contradict"):
        Goal(precision=0.5, recall=0.5).check()
