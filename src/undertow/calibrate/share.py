"""The share of wrong labels, from what the trained model thinks of them.

How the rows of each label look to the model is a mixture of right and wrong ones (`undertow.calibrate.mixture`), once
what the model says is corrected twice: by a temperature and a bias of each class, so that it is right of the trusted
rows; and by what training on the very row added to the label it was trained on, which is taken off again. How much that
is, canaries tell: training pulled them the other way, so that they and the rest agree at the right strength only.
Where canaries stand by harm bounds the share from above (`undertow.calibrate.evidence`), as far as errors are like
canaries. All that takes wrong labels to be spread evenly over the rows of a class; more are wrong if they gather in
texts that are hard to tell, and whether they do is asked last (`undertow.calibrate.gathering`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.evidence import TOTALS, Seen, heard, standing_evidence
from undertow.calibrate.gathering import ENOUGH, Gathered, gathered
from undertow.calibrate.mixture import SHARES, label_sizes, likeliest, profiles, shares_of_labels
from undertow.calibrate.told import Reading, Told, as_read, likelihood_ratio, read_by

# Strengths of memory that are tried, and what is expected of it before canaries are asked: centre and scale of a
# Student t with so many degrees of freedom, whose tails yield to evidence.
MEMORY = np.concatenate([np.linspace(0.0, 1.2, 25), np.geomspace(1.35, 6.0, 8)])
EXPECTED, SPREAD, FREEDOM = 0.3, 0.1, 8
# Rows are ordered as if so many labels were wrong, where fewer are.
LEAST = 0.02
# So many of n rows may be wrong though none is seen: the 95% bound by the rule of three.
UNSEEN = 3


@dataclass(frozen=True)
class Share:
    """Share of the rows whose label is wrong.

    Attributes:
        value: the estimate.
        low: lower end of its 95% interval.
        high: upper end.
        of_label: what is expected of the rows that carry each label, their mean being the estimate or `LEAST`.
        memory: strength of what training added to the own label of a row.
        reading: of the model's probabilities.
        gathering: probability that wrong labels gather in texts that are hard to tell; None where no model could be
            asked, so that they are taken to be spread evenly.
    """

    value: float
    low: float
    high: float
    of_label: Float[np.ndarray, " class"]
    memory: float
    reading: Reading
    gathering: float | None = None


@dataclass(frozen=True)
class _Facts:
    """What a share is estimated from, as `estimate_share` has it."""

    rest: Told
    canaries: Told
    trusted: Told
    unlearned: tuple[Told, Told] | None

    def take(
        self,
        rest: Int[np.ndarray, " some"],
        canaries: Int[np.ndarray, " few"],
        trusted: Int[np.ndarray, " known"],
    ) -> "_Facts":
        """Some of the rows of each kind."""
        beside = None
        if self.unlearned is not None:
            beside = (self.unlearned[0].take(rest), self.unlearned[1].take(trusted))
        return _Facts(self.rest.take(rest), self.canaries.take(canaries), self.trusted.take(trusted), beside)


@dataclass(frozen=True)
class _Solved:
    memory: float
    value: float
    low: float
    high: float
    of_label: Float[np.ndarray, " class"]


@dataclass(frozen=True)
class _Estimate:
    """How the models are to be read, the share if wrong labels are spread evenly, and whether they gather."""

    reading: Reading
    of_asked: Reading
    solved: _Solved
    hard: Gathered | None


def estimate_share(
    rest: Told,
    canaries: Told,
    trusted: Told,
    seen: Seen | None = None,
    *,
    unlearned: tuple[Told, Told] | None = None,
    times: int | None = None,
    seed: int = 0,
) -> Share:
    """The share of wrong labels among the rest, with an interval over rows, canaries and trusted rows.

    Each label has a share of its own, held near what flips that strike all classes alike would give it. The estimate is
    the mean over how strongly wrong labels may gather in hard texts, each by how probable it is.

    Args:
        rest: rows that are not canaries, with their labels.
        canaries: canaries with their own labels, taught other ones.
        trusted: rows that the model was not trained on, with labels to be trusted.
        seen: where rest and canaries stand by harm, if there is one.
        unlearned: what a model that learned from none of these rows says of the rest and of the trusted rows, which is
            asked whether wrong labels gather; by default the same model, if it is one.
        times: resamples; 100 by default, fewer with more than four classes, and 50 at least.
        seed: of the resamples.

    The interval is that of the estimates in resamples, each at a strength of gathering that is drawn, and holds every
    share that the evidence does not speak against: of a model that knows nothing, resamples agree on nothing too.
    """
    random = np.random.default_rng(seed)
    facts, classes = _Facts(rest, canaries, trusted, unlearned), rest.probabilities.shape[1]
    by_canary, beliefs = np.zeros((len(TOTALS), 1, len(canaries))), np.zeros(1)
    if seen is not None:
        reading = read_by(trusted)
        first = _solve(rest, canaries, reading, EXPECTED, np.zeros(len(TOTALS)))
        by_canary, beliefs = standing_evidence(rest, canaries, seen, first.of_label, first.memory, reading)
    found = _estimated(facts, EXPECTED, heard(by_canary.sum(axis=2), beliefs))
    solved, hard = found.solved, found.hard
    value = solved.value if hard is None else float(hard.probable @ hard.moved(solved.value))
    resamples = max(50, min(100, 400 // classes)) if times is None else times
    low, high = np.quantile(_resampled(facts, found, by_canary, beliefs, resamples, random), [0.025, 0.975])
    unseen = UNSEEN / max(len(rest), 1)
    return Share(
        value,
        float(min(low, solved.low)),
        float(max(high, solved.high, unseen)),
        shares_of_labels(solved.of_label, max(value, LEAST), label_sizes(rest), found.reading),
        solved.memory,
        found.reading,
        None if hard is None else 1 - float(hard.probable[0]),
    )


def doubts(told: Told, share: Share) -> Float[np.ndarray, " row"]:
    """Probability that the label of each row is wrong, by what the model says of this row alone.

    As if `LEAST` of the labels were wrong, where the share is below that.
    """
    value = max(share.value, LEAST)
    result: np.ndarray = value / (value + (1 - value) * np.exp(likelihood_ratio(told, share.reading, share.memory)))
    return result


def _estimated(
    facts: _Facts, expected: float, said: Float[np.ndarray, " total"], near: _Estimate | None = None
) -> _Estimate:
    """The share if wrong labels are spread evenly, and what is said of each strength of gathering.

    Args:
        facts: what is known.
        expected: strength of memory.
        said: what standings say of every share.
        near: where to begin.
    """
    reading = read_by(facts.trusted, near.reading if near else None)
    asked, of_asked = facts.rest, reading
    if facts.unlearned is not None:
        asked, known = facts.unlearned
        of_asked = read_by(known, near.of_asked if near else None)
    solved = _solve(facts.rest, facts.canaries, reading, expected, said)
    hard = _gathered(asked, of_asked, _true_classes(facts.rest, reading, solved), near.hard if near else None)
    return _Estimate(reading, of_asked, solved, hard)


def _resampled(
    facts: _Facts,
    found: _Estimate,
    by_canary: Float[np.ndarray, "total bend canary"],
    beliefs: Float[np.ndarray, " bend"],
    times: int,
    random: np.random.Generator,
) -> Float[np.ndarray, " resample"]:
    """Estimates in resamples of rows, canaries and trusted rows, each at a strength of gathering that is drawn."""
    if len(facts.rest) > ENOUGH:  # resampled at their own size below: the interval is that of as many
        few = random.choice(len(facts.rest), ENOUGH, replace=False)
        facts = facts.take(few, np.arange(len(facts.canaries)), np.arange(len(facts.trusted)))
    drawn = []
    for _ in range(times):
        ours, theirs, known = (
            random.integers(0, len(told), len(told)) for told in (facts.rest, facts.canaries, facts.trusted)
        )
        expected = random.normal(EXPECTED, SPREAD)
        said = heard(by_canary @ np.bincount(theirs, minlength=len(facts.canaries)), beliefs)
        there = _estimated(facts.take(ours, theirs, known), expected, said, found)
        value, hard = there.solved.value, there.hard
        drawn.append(value if hard is None else random.choice(hard.moved(value), p=hard.probable))
    return np.array(drawn)


def _solve(rest: Told, canaries: Told, reading: Reading, expected: float, said: Float[np.ndarray, " total"]) -> _Solved:
    """Memory and shares: the memory at which rest, canaries and their standings agree best, near what is expected.

    With the lowest and the highest share whose likelihood is not below the highest one by more than 95% allow.
    """
    sizes, tried = label_sizes(rest), np.zeros(1) if rest.held_out else MEMORY
    ours, theirs = (profiles(told, reading, tried) for told in (rest, canaries))
    likelihood, of_label = likeliest(ours + theirs, sizes, reading)
    # What it costs the two to agree on the same shares.
    apart = sum(likeliest(p, sizes, reading)[0] for p in (ours, theirs)) - likelihood
    strange = 0.5 * (FREEDOM + 1) * np.log1p(((tried - expected) / SPREAD) ** 2 / FREEDOM)
    at = int(np.argmin(apart + strange - np.interp(sizes @ of_label, TOTALS, said)))
    whole, of_label, totals = _along((ours + theirs)[:, [at]], sizes, reading, said)
    best = int(np.argmax(whole))
    held = totals[whole >= whole[best] - _ALLOWED]
    return _Solved(float(tried[at]), float(totals[best]), float(held.min()), float(held.max()), of_label[:, best])


def _gathered(
    asked: Told, reading: Reading, classes: Float[np.ndarray, " class"], near: Gathered | None = None
) -> Gathered | None:
    """What a model says of each strength of gathering among rows of these classes; None of one that learned from them.

    Of what such a model remembers a little too much or too little is taken off, and that looks like gathering.
    """
    if not asked.held_out:
        return None
    logs = as_read(asked, reading) + np.log(classes / reading.priors)
    return gathered(logs, asked.labels, near)


def _true_classes(rest: Told, reading: Reading, found: _Solved) -> Float[np.ndarray, " class"]:
    """Share of the rows that truly are of each class, by what is wrong of each label."""
    sizes = label_sizes(rest)
    if found.value <= 0:
        return sizes
    wrong = sizes * shares_of_labels(found.of_label, found.value, sizes, reading)
    result: np.ndarray = np.maximum(sizes - wrong + (wrong.sum() - wrong) / (len(sizes) - 1), 1 / max(len(rest), 1))
    return result


def _along(
    of_shares: Float[np.ndarray, "class 1 share"],
    sizes: Float[np.ndarray, " class"],
    reading: Reading,
    said: Float[np.ndarray, " total"],
) -> tuple[Float[np.ndarray, " force"], Float[np.ndarray, "class force"], Float[np.ndarray, " force"]]:
    """Highest likelihoods along all totals, shares of the labels there, and the totals.

    Shares are pulled up and down by a growing force, which walks along the highest likelihood of every total.
    """
    forces = np.concatenate([-_FORCES[::-1], [0.0], _FORCES])
    value, of_label = likeliest(of_shares + sizes[:, None, None] * forces[:, None] * SHARES, sizes, reading)
    totals = sizes @ of_label
    return value - forces * totals + np.interp(totals, TOTALS, said), of_label, totals


# Half of the 95% quantile of chi-square with one degree of freedom.
_ALLOWED = 1.92
_FORCES: np.ndarray = np.geomspace(0.3, 1e4, 40)
