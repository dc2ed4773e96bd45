"""The share of wrong labels, from what the trained model thinks of them.

How the rows of each label look to the model is a mixture of right and wrong ones (`undertow.calibrate.mixture`), once
what the model says is corrected twice: by a temperature and a bias of each class, so that it is right of the trusted
rows; and by what training on the very row added to the label it was trained on, which is taken off again. How much that
is, canaries tell: training pulled them the other way, so that they and the rest agree at the right strength only.
Where canaries stand by harm bounds the share from above (`undertow.calibrate.evidence`), as far as errors are like
canaries.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.calibrate.evidence import TOTALS, Seen, heard, standing_evidence
from undertow.calibrate.mixture import SHARES, label_sizes, likeliest, profiles, shares_of_labels
from undertow.calibrate.odds import log_odds
from undertow.calibrate.told import SURE, Reading, Told, as_read, likelihood_ratio, read_by

# Strengths of memory that are tried, and what is expected of it before canaries are asked: centre and scale of a
# Student t with so many degrees of freedom, whose tails yield to evidence.
MEMORY = np.concatenate([np.linspace(0.0, 1.2, 25), np.geomspace(1.35, 6.0, 8)])
EXPECTED, SPREAD, FREEDOM = 0.3, 0.1, 8
# Rows are ordered as if so many labels were wrong, where fewer are.
LEAST = 0.02
# Rows that resamples draw from: more say no more.
ENOUGH = 4000
# How much higher the log-odds of a wrong label are taken to be where a model does not know than where it is sure, if
# wrong labels gather there.
GATHERED = 1.5
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
    """

    value: float
    low: float
    high: float
    of_label: Float[np.ndarray, " class"]
    memory: float
    reading: Reading


@dataclass(frozen=True)
class _Solved:
    memory: float
    value: float
    low: float
    high: float
    of_label: Float[np.ndarray, " class"]


def estimate_share(
    rest: Told, canaries: Told, trusted: Told, seen: Seen | None = None, *, times: int | None = None, seed: int = 0
) -> Share:
    """The share of wrong labels among the rest, with an interval over rows, canaries and trusted rows.

    Each label has a share of its own, held near what flips that strike all classes alike would give it. Wrong labels
    of one class are taken to be spread over its rows evenly.

    Args:
        rest: rows that are not canaries, with their labels.
        canaries: canaries with their own labels, taught other ones.
        trusted: rows that the model was not trained on, with labels to be trusted.
        seen: where rest and canaries stand by harm, if there is one.
        times: resamples; 100 by default, fewer with more than four classes, and 50 at least.
        seed: of the resamples.

    The interval is that of the estimates in resamples, and holds every share that the evidence does not speak against:
    of a model that knows nothing, resamples agree on nothing too.
    """
    random = np.random.default_rng(seed)
    reading, sizes = read_by(trusted), label_sizes(rest)
    found = _solve(rest, canaries, reading, EXPECTED, np.zeros(len(TOTALS)))
    by_canary, beliefs = np.zeros((len(TOTALS), 1, len(canaries))), np.zeros(1)
    if seen is not None:
        by_canary, beliefs = standing_evidence(rest, canaries, seen, found.of_label, found.memory, reading)
    said = heard(by_canary.sum(axis=2), beliefs)
    found = _solve(rest, canaries, reading, EXPECTED, said)
    unseen = UNSEEN / max(len(rest), 1)
    if len(rest) > ENOUGH:  # resampled at their own size below: the interval is that of as many
        rest = rest.take(random.choice(len(rest), ENOUGH, replace=False))
    drawn = []
    for _ in range(max(50, min(100, 400 // len(sizes))) if times is None else times):
        ours, theirs, known = (random.integers(0, len(p), len(p)) for p in (rest, canaries, trusted))
        again = read_by(trusted.take(known), reading)
        expected = random.normal(EXPECTED, SPREAD)
        times_drawn = np.bincount(theirs, minlength=len(canaries))
        said = heard(by_canary @ times_drawn, beliefs)
        drawn.append(_solve(rest.take(ours), canaries.take(theirs), again, expected, said).value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    of_label = shares_of_labels(found.of_label, max(found.value, LEAST), sizes, reading)
    return Share(
        found.value, float(min(low, found.low)), float(max(high, found.high, unseen)), of_label, found.memory, reading
    )


def doubts(told: Told, share: Share) -> Float[np.ndarray, " row"]:
    """Probability that the label of each row is wrong, by what the model says of this row alone.

    As if `LEAST` of the labels were wrong, where the share is below that.
    """
    value = max(share.value, LEAST)
    result: np.ndarray = value / (value + (1 - value) * np.exp(likelihood_ratio(told, share.reading, share.memory)))
    return result


def share_if_hard(rest: Told, share: Share) -> float:
    """The share of wrong labels if they gather where the model is not sure, where `estimate_share` spreads them evenly.

    The log-odds of a wrong label rise by `GATHERED` from rows whose class the model is sure of to rows that it knows
    nothing of. Rows of hard texts and wrong labels look alike, so that hardly anything tells which of the two it is: by
    as much as the likeliest share of the one is above that of the other, in log-odds, the estimate is moved.

    Args:
        rest: rows that are not canaries, with their labels.
        share: what `estimate_share` says of them.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    if share.value <= 0:
        return 0.0
    p = np.exp(as_read(rest, share.reading, share.memory))
    classes, own = p.shape[1], p[np.arange(len(rest)), rest.labels]
    other, unsure = (1 - own) / (classes - 1), (1 - p.max(axis=1)) * classes / (classes - 1)
    spread = log_odds(share.of_label)[rest.labels]

    def likeliest_mean(odds: np.ndarray) -> float:
        def cost(shift: float) -> float:
            wrong = expit(odds + shift)
            return -float(np.log(np.maximum((1 - wrong) * own + wrong * other, SURE)).sum())

        return float(expit(odds + minimize_scalar(cost, bounds=(-12.0, 6.0), method="bounded").x).mean())

    even, hard = likeliest_mean(spread), likeliest_mean(spread + GATHERED * (unsure - unsure.mean()))
    moved = log_odds(np.array([share.value, hard, even]), _LOWEST)
    return max(share.value, float(expit(moved[0] + moved[1] - moved[2])))


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
_LOWEST = 1e-6
_FORCES: np.ndarray = np.geomspace(0.3, 1e4, 40)
