"""Choices of estimator, layers and aggregation, ranked by how they separate canaries from the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.standing import standing

# Difference in AUROC below which two choices are as good as each other.
TIE = 0.005
# How many of the best choices are averaged: fifty canaries can hardly tell these apart, and after them come worse ones.
FEW = 20


@dataclass(frozen=True)
class Ranking:
    """Choices, best first.

    Attributes:
        order: positions of the choices, best first.
        auroc: of each choice, in the order of the choices: share of (canary, row) pairs in which the canary has the
            higher harm.
        low: lower end of the 95% interval over canaries.
        high: upper end.
        tied: choices that cannot be told from the best: their interval of the difference holds 0, and the difference
            is below `TIE`.
        chosen: of those, the simplest.
    """

    order: Int[np.ndarray, " choice"]
    auroc: Float[np.ndarray, " choice"]
    low: Float[np.ndarray, " choice"]
    high: Float[np.ndarray, " choice"]
    tied: Int[np.ndarray, " tie"]
    chosen: int


def resampled_means(
    standings: Float[np.ndarray, "choice canary"], *, times: int, seed: int
) -> Float[np.ndarray, "resample choice"]:
    """Mean over canaries of each choice, in resamples of the canaries that are the same for all choices."""
    count = standings.shape[1]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), times)
    result: np.ndarray = (drawn / count) @ standings.T
    return result


def intervals(standings: Float[np.ndarray, "choice canary"], *, times: int, seed: int) -> Float[np.ndarray, "choice 3"]:
    """Mean over canaries of each choice, and the ends of its 95% interval in the resamples of `resampled_means`."""
    ends = np.quantile(resampled_means(standings, times=times, seed=seed), [0.025, 0.975], axis=0)
    return np.stack([standings.mean(axis=1), *ends], axis=1)


def rank_choices(
    standings: Float[np.ndarray, "choice canary"],
    costs: Sequence[int | float],
    *,
    times: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Rank choices by the AUROC of canaries against the rest; ties go to the cheaper.

    Args:
        standings: of each canary by each choice, among the rest (see `undertow.calibrate.standing`).
        costs: of each choice; only their order matters.
        times: resamples of the canaries.
        seed: of the resamples.
    """
    auroc = standings.mean(axis=1)
    drawn = resampled_means(standings, times=times, seed=seed)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    order = np.lexsort((np.arange(len(auroc)), np.asarray(costs, dtype=np.float64), -auroc))
    best = order[0]
    behind = np.quantile(drawn[:, [best]] - drawn, 0.025, axis=0)
    tied = np.flatnonzero((auroc[best] - auroc <= TIE) & (behind <= 0))
    chosen = min(tied.tolist(), key=lambda i: (costs[i], -auroc[i], i))
    return Ranking(order, auroc, low, high, tied, chosen)


def best_first(standings: Float[np.ndarray, "choice canary"]) -> Int[np.ndarray, " choice"]:
    """Positions of the choices by the mean standing of some canaries, the highest first."""
    order: np.ndarray = np.argsort(-standings.mean(axis=1), kind="stable")
    return order


def average(
    standings: Float[np.ndarray, "choice sample"], order: Int[np.ndarray, " choice"], few: int = FEW
) -> Float[np.ndarray, " sample"]:
    """Mean standing over the best few choices."""
    result: np.ndarray = standings[order[:few]].mean(axis=0)
    return result


def held_out_folds(count: int, folds: int, *, seed: int) -> Int[np.ndarray, " item"]:
    """Fold of each item, as even as can be."""
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def held_out_choice(
    standings: Float[np.ndarray, "choice sample"],
    rest: Int[np.ndarray, " row"],
    canaries: Int[np.ndarray, " canary"],
    fold: Int[np.ndarray, " canary"],
    few: int,
) -> Float[np.ndarray, " canary"]:
    """Standing of each canary by the average of the few choices that the canaries of the other folds find best."""
    found = np.empty(len(canaries))
    for f in np.unique(fold):
        others, mine = canaries[fold != f], canaries[fold == f]
        score = average(standings, best_first(standings[:, others]), few)
        found[fold == f] = standing(score[mine], score[rest])
    return found
