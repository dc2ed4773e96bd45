"""Shares of wrong labels among the rows of each label, by likelihood.

Of the rows that carry one label some have another true one; how these texts look to the model is a mixture of both,

    P(text | given label) ~ (1 - share) p / prior + share (1 - p) / (1 - prior),

p the model's probability of that label and prior its share among the trusted rows. Each label has its own share, so
that flips of one class alone are seen, and training data may have other shares of the classes than trusted rows: label
shift as in Saerens et al. 2002, of each label by itself.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from undertow.calibrate.odds import log_odds, with_mean
from undertow.calibrate.told import SURE, Reading, Told, likelihood_ratio

# Shares that are tried, of one label.
SHARES = np.concatenate([np.linspace(0, 0.1, 41), np.linspace(0.105, 0.9, 160)])
# Shares of flips that every class could have alike, which those of single labels are held near.
ALIKE = SHARES[SHARES <= 0.7][::3]
# The least separation of the classes that is reckoned with.
APART = 0.02
# Separation of the classes below which a model is not heard: the smallest difference between training and trusted texts
# would speak louder than wrong labels.
BLIND = 0.05
# Separation at which what the rows of a label say of its share counts half; the rest is what flips alike would give it.
HALF = 0.5
# Flips are taken to leave so much of what labels say: at 1 they would be drawn by lot.
_MOST = 0.95


@dataclass(frozen=True)
class Doubts:
    """Which labels are likely wrong, where flips strike all labels alike.

    Attributes:
        wrong: probability that the label of each row is wrong.
        contrast: how far rows with another flip stand above all rows, of the distance of wrong from right ones: the
            more is wrong, the more of these flips put a label right.
    """

    wrong: Float[np.ndarray, " row"]
    contrast: float

    def take(self, rows: Bool[np.ndarray, " row"]) -> "Doubts":
        """Of some of the rows."""
        return Doubts(self.wrong[rows], self.contrast)


def even_doubts(own: Float[np.ndarray, " row"], classes: int) -> Doubts:
    """Doubts by how probable the label is that each row carries, at the likeliest share of wrong ones.

    P(given label) = (1 - share) p + share (1 - p) / (classes - 1), whose logarithm is concave in the share.

    Args:
        own: p, by a model that learned from none of the labels and is right on average.
        classes: number of classes.
    """
    from scipy.optimize import minimize_scalar

    right = np.clip(own.astype(np.float64), SURE, 1 - SURE)
    other, most = (1 - right) / (classes - 1), _MOST * (classes - 1) / classes

    def cost(share: float) -> float:
        return -float(np.log((1 - share) * right + share * other).sum())

    share = float(minimize_scalar(cost, bounds=(SURE, most), method="bounded").x)
    wrong = share * other / ((1 - share) * right + share * other)
    return Doubts(wrong, 1 - share * classes / (classes - 1))


def flip_shares(
    priors: Float[np.ndarray, " class"], alike: Float[np.ndarray, " share"]
) -> Float[np.ndarray, "class share"]:
    """Share of wrong labels among the rows of each label, where each class lost the same part of its rows.

    Args:
        priors: share of each class by true labels.
        alike: parts of each class that carry another label, spread evenly over the others.
    """
    gained = alike / max(len(priors) - 1, 1) * (1 - priors[:, None])
    wrong = gained / (gained + (1 - alike) * priors[:, None])
    result: np.ndarray = np.clip(wrong, SURE, 1 - SURE)
    return result


def shares_of_labels(
    own: Float[np.ndarray, " class"],
    mean: float,
    sizes: Float[np.ndarray, " class"],
    reading: Reading,
) -> Float[np.ndarray, " class"]:
    """Shares of the labels, between their own and those of flips alike, of a mean.

    A small difference between training and trusted texts moves the own shares by as much as it is large beside the
    separation of the classes; so the squared separation says how far they are believed.

    Args:
        own: share of wrong labels among the rows of each label, as they say themselves.
        mean: of all rows, above 0.
        sizes: share of the rows that carry each label.
        reading: of the model's probabilities.
    """
    alike = flip_shares(reading.priors, ALIKE)
    near = alike[:, int(np.argmin(np.abs(sizes @ alike - mean)))]
    believed = reading.separation**2 / (reading.separation**2 + HALF**2)
    odds = believed * log_odds(own) + (1 - believed) * log_odds(near)
    return with_mean(odds, odds, mean, sizes)


def label_sizes(rest: Told) -> Float[np.ndarray, " class"]:
    """Share of the rows that carry each label."""
    counts = np.bincount(rest.labels, minlength=rest.probabilities.shape[1])
    result: np.ndarray = counts / max(counts.sum(), 1)
    return result


def profiles(
    told: Told, reading: Reading, memories: Float[np.ndarray, " memory"]
) -> Float[np.ndarray, "class memory share"]:
    """Log-likelihood of every share of each label at every memory; 0 throughout where the model is not heard."""
    classes, bins = told.probabilities.shape[1], len(_CENTRES)
    if reading.separation < BLIND:
        return np.zeros((classes, len(memories), len(SHARES)))
    counts = np.empty((classes, len(memories), bins))
    for i, memory in enumerate(memories):
        ratio = likelihood_ratio(told, reading, float(memory))
        place = np.clip(np.rint((ratio - _CENTRES[0]) / _STEP).astype(int), 0, bins - 1)
        counts[:, i] = np.bincount(told.labels * bins + place, minlength=classes * bins).reshape(classes, bins)
    result: np.ndarray = counts @ _MIXTURE.T
    return result


def likeliest(
    profiles: Float[np.ndarray, "class case share"],
    sizes: Float[np.ndarray, " class"],
    reading: Reading,
) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, "class case"]]:
    """Highest sum of the profiles, held near shares of flips alike, and the share of each label there, by case.

    How near, in log-odds, is how well the model tells the classes apart: a small difference between training and
    trusted texts passes for flips of one class where it hardly does.
    """
    total = np.tile(-0.5 * (ALIKE / 0.5) ** 2, (profiles.shape[1], 1))
    chosen = np.empty((len(profiles), *total.shape), dtype=np.int64)
    expected, apart = flip_shares(reading.priors, ALIKE), max(reading.separation, APART)
    for g, profile in enumerate(profiles):
        off = (_LOG_ODDS - log_odds(expected[g])[:, None]) / apart
        held = profile[:, None, :] - 0.5 * off**2
        chosen[g] = held.argmax(axis=2)
        total += np.take_along_axis(held, chosen[g][:, :, None], axis=2)[:, :, 0] * (sizes[g] > 0)
    at = total.argmax(axis=1)
    cases = np.arange(len(at))
    return total[cases, at], SHARES[chosen[:, cases, at]]


# Logarithms of likelihood ratios, and the logarithm of the mixture at each of them for every share.
_STEP = 0.06
_CENTRES: np.ndarray = np.arange(-15, 15 + _STEP / 2, _STEP)
_MIXTURE: np.ndarray = np.log((1 - SHARES[:, None]) * np.exp(_CENTRES) + SHARES[:, None]) - np.maximum(_CENTRES, 0)
_LOG_ODDS: np.ndarray = log_odds(SHARES)
