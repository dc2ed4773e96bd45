import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.calibrate.cut import expected_cuts, highest_auroc, suggest
from undertow.calibrate.goal import Goal
from undertow.calibrate.odds import log_odds, probabilities, shift_to_mean, shifts_to_mean, with_mean
from undertow.calibrate.probability import handed_on, label_offsets, odds_curve
from undertow.calibrate.share import LEAST, Share, doubts, estimate_share
from undertow.calibrate.standing import standing
from undertow.calibrate.told import Reading
from undertow.errors import ConfigError

from . import scores
from .scores import modelled

READING = Reading(1.0, np.zeros(2), np.full(2, 0.5), 0.5)


def about(value: float, low: float, high: float) -> Share:
    return Share(value, low, high, np.full(2, value), 0.25, READING)


SOME = about(0.2, 0.15, 0.25)
# Of canaries that stand out, and of ones that do not.
APART, MIXED = (0.9, 0.95), (0.48, 0.56)


def curve_of(share: float, seed: int, canaries: int = 100):
    """Standings, truth and curve where the harm is the loss and something beside it."""
    made, random = modelled(share, seed=seed, canaries=canaries), np.random.default_rng(seed)
    found = estimate_share(made.rest, made.canaries, made.trusted, times=20, seed=seed)
    rest, planted = (
        -np.log(t.probabilities[np.arange(len(t)), t.labels if t.taught is None else t.taught])
        + 0.3 * random.normal(size=len(t))
        for t in (made.rest, made.canaries)
    )
    ours, theirs = standing(rest, rest), standing(planted, rest)
    return ours, theirs, made.bad, found, doubts(made.rest, found)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_promised_precision_holds(share: float):
    promised, true = [], []
    for seed in range(4):
        ours, theirs, bad, found, doubted = curve_of(share, seed)
        odds = odds_curve(ours, doubted, theirs, found.value, 2).at(ours)
        wrong = with_mean(odds, odds, found.value)
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
    curve = odds_curve(ours, random.uniform(0.01, 0.9, len(ours)), theirs, share, 2)
    assert (np.diff(curve.odds) > 0).all()
    odds = curve.at(ours)
    wrong = with_mean(odds, odds, share)
    assert wrong.mean() == pytest.approx(share, abs=1e-6)
    assert ((wrong > 0) & (wrong < 1)).all()
    assert with_mean(odds, odds, 0.0).max() == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-4, 4)), min_size=3, max_size=30),
    st.lists(st.floats(0.01, 0.9), min_size=3, max_size=3),
)
def test_offsets_give_every_label_its_share(rows: list[tuple[int, float]], shares: list[float]):
    labels, odds = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    moved = odds + label_offsets(odds, labels, np.array(shares))[labels]
    for label in set(labels.tolist()):
        assert (1 / (1 + np.exp(-moved[labels == label]))).mean() == pytest.approx(shares[label], abs=1e-6)


def test_offsets_are_finite_where_a_row_is_wrong_beyond_doubt():
    odds = np.array([60.0, -60.0, -60.0])
    offsets = label_offsets(odds, np.zeros(3, dtype=int), np.array([0.4]))
    assert np.isfinite(offsets).all()
    assert (1 / (1 + np.exp(-odds - offsets[0]))).mean() == pytest.approx(0.4)


def test_log_odds_are_finite_and_turned_back():
    shares = np.array([0.0, 0.2, 1.0])
    assert np.isfinite(log_odds(shares)).all()
    assert with_mean(log_odds(shares[1:2]), log_odds(shares[1:2]), 0.2) == pytest.approx(0.2)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(0.001, 0.9), st.integers(0, 99))
def test_many_cases_are_shifted_as_each_by_itself(cases: int, rows: int, mean: float, seed: int):
    random = np.random.default_rng(seed)
    odds, weights = random.normal(0, 2, (cases, rows)), random.dirichlet(np.ones(rows))
    shifts = shifts_to_mean(odds, mean, weights)
    assert shifts == pytest.approx([shift_to_mean(one, mean, weights) for one in odds], abs=1e-8)
    assert probabilities(odds + shifts[:, None]) @ weights == pytest.approx(np.full(cases, mean), abs=1e-9)
    assert shifts_to_mean(odds, mean) == pytest.approx([shift_to_mean(one, mean) for one in odds], abs=1e-8)


def test_canaries_bend_a_curve_that_is_too_flat():
    """The model doubts all rows nearly alike; canaries show that the harm separates."""
    random = np.random.default_rng(0)
    ours = (np.arange(1000) + 0.5) / 1000
    doubted = 0.2 + 0.05 * ours
    sharp, blunt = 1 - random.random(200) ** 2 * 0.25, random.random(200)
    bent, flat = (odds_curve(ours, doubted, some, 0.2, 2) for some in (sharp, blunt))
    assert bent.slope > 1.1
    assert bent.tilt > 0.3 > flat.tilt
    assert flat.slope < 1.2


def test_doubts_of_what_learned_from_no_row_are_taken_at_their_word():
    random = np.random.default_rng(0)
    ours = standing(values := random.random(500), values)
    doubted = np.clip(ours**3 + 0.05 * random.normal(size=500), 0.01, 0.99)
    plain = odds_curve(ours, doubted, None, float(doubted.mean()), 2)
    assert plain.slope == 1
    wrong = with_mean(odds := plain.at(ours), odds, float(doubted.mean()))
    assert wrong == pytest.approx(ours**3, abs=0.12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_doubts_handed_on_stay_within_their_label_and_follow_the_harm(seed: int, rows: int):
    random = np.random.default_rng(seed)
    doubted, harm, labels = random.random(rows), random.random(rows), random.integers(0, 3, rows)
    before = doubted.copy()
    found = handed_on(doubted, harm, labels)
    assert np.array_equal(doubted, before)
    for label in range(3):
        own = np.flatnonzero(labels == label)
        assert found[own[np.argsort(harm[own])]].tolist() == sorted(doubted[own])


def test_the_top_of_a_harm_that_finds_as_much_is_promised_what_the_reader_says_of_its_own_top():
    """Two views of the same rows, equally good; the doubts of one are right on average in its own order."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=20_000)
    wrong = random.random(20_000) < probabilities(1.5 * hidden - 2)
    reader, harm = (hidden + random.normal(size=20_000) for _ in range(2))
    doubted = np.empty(20_000)
    for rows in np.array_split(np.argsort(reader), 100):
        doubted[rows] = wrong[rows].mean()
    labels, top = np.zeros(20_000, dtype=int), np.argsort(-harm)[:2000]
    place = standing(harm, harm)

    def promised(some: np.ndarray) -> float:
        odds = odds_curve(place, some, None, float(wrong.mean()), 2).at(place)
        return float(with_mean(odds, odds, float(wrong.mean()))[top].mean())

    assert promised(handed_on(doubted, harm, labels)) == pytest.approx(wrong[top].mean(), abs=0.02)
    assert promised(doubted) < wrong[top].mean() - 0.05


def test_canaries_tilt_a_curve_where_the_model_doubts_all_rows_alike():
    made = scores.made(4000, 200, 0.4, 1.2, seed=0)
    ours, theirs = standing(made.rest, made.rest), standing(made.canaries, made.rest)
    doubted = np.clip(np.random.default_rng(0).normal(0.4, 0.02, len(ours)), 0.01, 0.99)
    curve = odds_curve(ours, doubted, theirs, 0.4, 2)
    assert curve.tilt > 0.3
    wrong, worst = with_mean(curve.at(ours), curve.at(ours), 0.4), np.argsort(-ours)[:800]
    assert wrong[worst].mean() == pytest.approx(made.bad[worst].mean(), abs=0.08)
    blunt = np.random.default_rng(1).random(200)
    assert odds_curve(ours, doubted, blunt, 0.4, 2).tilt < 0.15


@pytest.mark.parametrize(("share", "classes"), [(0.0, 2), (0.3, 2), (0.4, 5)])
def test_the_highest_auroc_is_that_of_harm_that_is_never_wrong(share: float, classes: int):
    random = np.random.default_rng(0)
    rest = (random.random(200_000) < share).astype(float)
    canaries = (random.random(200_000) >= share / (classes - 1)).astype(float)
    assert highest_auroc(share, classes) == pytest.approx(standing(canaries, rest).mean(), abs=0.01)
    assert highest_auroc(0.9, 2) == 0.5


def test_cuts_of_known_probabilities():
    wrong = np.array([1.0, 0.8, 0.2, 0.0])
    cuts = expected_cuts(wrong, wrong / 2, np.minimum(wrong * 1.1, 1))
    assert cuts.precision == pytest.approx([1, 1, 0.9, 2 / 3, 0.5])
    assert cuts.recall == pytest.approx([0, 0.5, 0.9, 1, 1])
    assert cuts.precision_low == pytest.approx(cuts.precision / 2)
    assert suggest(cuts, SOME, APART).rows == cuts.likely == 2
    assert suggest(cuts, SOME, APART).removed == 2
    assert suggest(cuts, SOME, APART, Goal(precision=0.95)).rows == 1
    assert suggest(cuts, SOME, APART, Goal(precision=0.6)).rows == 3
    assert suggest(cuts, SOME, APART, Goal(recall=0.95)).rows == 3
    assert suggest(cuts, SOME, APART, Goal(recall=0.4)).recall == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "auroc", "goal", "why"),
    [
        (
            about(0.005, 0.0, 0.02),
            APART,
            None,
            "the labels look right (at most 2.0% of the rows are wrong, perhaps none, unless wrong labels gather",
        ),
        (about(0.02, 0.0, 0.2), APART, None, "cannot be told: anything from none to 20% of the rows"),
        (SOME, (0.52, 0.9), None, "do not tell canaries from the rest well enough (AUROC 0.52 to 0.90)"),
        (about(0.3, 0.1, 0.7), APART, None, "cannot be told: anything from 10% to 70% of the rows"),
        (about(0.45, 0.2, 0.6), APART, None, "20% to 60% of the labels may be wrong, but which ones cannot be told"),
        (SOME, APART, Goal(precision=0.9), "no cut reaches"),
    ],
)
def test_where_there_is_no_evidence_nothing_is_cut(
    share: Share, auroc: tuple[float, float], goal: Goal | None, why: str
):
    wrong = np.array([0.5, 0.4, 0.1])
    found = suggest(expected_cuts(wrong, wrong, wrong), share, auroc, goal)
    assert found.rows == 0
    assert why in found.refused


def test_a_class_that_was_not_learned_vouches_for_nothing():
    wrong = np.array([0.5, 0.4, 0.1])
    found = suggest(expected_cuts(wrong, wrong, wrong), about(0.0, 0.0, 0.01), APART, unlearned="good")
    assert found.rows == 0
    assert "of the trusted rows labelled 'good' the model gets fewer right than chance" in found.refused


def test_a_row_more_likely_right_than_wrong_is_flagged_but_not_removed():
    wrong = np.array([0.7, 0.6, 0.45, 0.4, 0.01, 0.01])
    cuts = expected_cuts(wrong, wrong / 2, np.minimum(1.2 * wrong, 1))
    found = suggest(cuts, SOME, APART)
    assert (found.rows, found.removed) == (4, 2)
    assert found.precision == pytest.approx((0.5375, 0.26875, 0.645))
    assert found.removed_precision == pytest.approx((0.65, 0.325, 0.78))
    asked = suggest(cuts, SOME, APART, Goal(recall=0.7))
    assert asked.rows == asked.removed == 3
    assert asked.removed_precision == asked.precision


def test_where_no_row_is_more_likely_wrong_than_right_none_is_removed():
    wrong = np.array([0.5, 0.45, 0.1])
    found = suggest(expected_cuts(wrong, wrong, wrong), SOME, APART)
    assert found.rows == 2
    assert found.removed == 0
    assert found.removed_precision == (0.0, 0.0, 0.0)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=60))
def test_rows_more_likely_wrong_than_right_are_among_those_of_the_best_f1(some: list[float]):
    wrong = np.sort(np.array(some))[::-1]
    cuts = expected_cuts(wrong, wrong, wrong)
    assert cuts.likely <= int(np.argmax(cuts.f1))


def test_of_many_wrong_labels_canaries_need_not_stand_out_far():
    wrong = np.array([0.8, 0.6, 0.3])
    cuts = expected_cuts(wrong, wrong, wrong)
    assert suggest(cuts, about(0.4, 0.3, 0.5), (0.515, 0.6)).rows > 0
    assert suggest(cuts, about(0.2, 0.1, 0.3), (0.515, 0.6)).rows == 0


def test_canaries_that_miss_what_others_vouch_for_by_chance_do_not_stop_the_cut():
    wrong = np.array([0.8, 0.6, 0.3])
    cuts = expected_cuts(wrong, wrong, wrong)
    assert suggest(cuts, SOME, MIXED, vouched=True).rows > 0
    assert suggest(cuts, SOME, MIXED).rows == 0
    lower = suggest(cuts, SOME, (0.4, 0.52), vouched=True)
    assert lower.rows == 0
    assert "AUROC 0.40 to 0.52" in lower.refused


def test_clean_data_is_left_alone():
    flagged = []
    for seed in range(4):
        ours, theirs, _, found, doubted = curve_of(0.0, seed)
        odds = odds_curve(ours, doubted, theirs, max(found.value, LEAST), 2).at(np.sort(ours)[::-1])
        cuts = expected_cuts(*(with_mean(odds, odds, end) for end in (found.value, found.low, found.high)))
        flagged.append(suggest(cuts, found, APART).rows / len(ours))
    assert max(flagged) <= 0.01


def test_goals_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Goal(precision=1.5).check()
    with pytest.raises(ConfigError, match="contradict"):
        Goal(precision=0.5, recall=0.5).check()
