"""A learned aggregation: sources of harm, weighed by how well they tell canaries from the rest together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.calibrate.choices import FEW, average, held_out_folds
from undertow.calibrate.mixture import Doubts
from undertow.calibrate.standing import standing

FOLDS = 5
# How much a source may know of wrong labels beside what doubts know: deviation of the distance of wrong from right
# labels, in normal scores.
BESIDE = 0.3
# Ridge on the covariance of the sources, whose variances are about 1: sources that say the same share a weight.
RIDGE = 0.05
# Standings are taken this far from 0 and 1 before they become normal scores.
_EDGE = 0.002


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        harm: standing of each sample, by weights that it had no part in.
        weights: of the average of the best few choices and of each choice that stands for itself; their sum is 1.
        averaged: positions of the best few by all rows and canaries, the best first; each fold has its own.
    """

    harm: Float[np.ndarray, " sample"]
    weights: Float[np.ndarray, " source"]
    averaged: Int[np.ndarray, " few"]


def learned_harm(
    standings: Float[np.ndarray, "choice sample"],
    rest: Int[np.ndarray, " row"],
    canaries: Int[np.ndarray, " canary"],
    twins: Int[np.ndarray, " canary"],
    apart: Bool[np.ndarray, " choice"],
    doubts: Doubts | None = None,
    *,
    few: int = FEW,
    seed: int,
) -> Learned:
    """Fisher's linear discriminant of canaries and rest, with weights that are not negative, cross-fitted.

    The sources are the average of the few choices of largest d, and each choice that stands for itself, as normal
    scores of their standings. With the covariance C of the sources over the rest and the difference d of the means of
    wrong and right labels, the weights are the w >= 0 that make w (C + ridge) w / 2 - d w least: sources that say the
    same share a weight, one that tells nothing gets none.

    Two speak for d. Canaries are positive and the rest is unlabelled: where a share s of it is wrong, a part
    r = s / (classes - 1) of the canaries was flipped back, and they stand above the rest by (1 - s - r) d only. So what
    they say of d has the variance of a source / canaries / (1 - s - r)^2. Doubts of a model that learned from none of
    the labels count every row as wrong and as right by its probability, which is exact of sources that know nothing
    beside these doubts, and off by a deviation of `BESIDE` of others. The d that is used is the mean of both by their
    precisions. Five folds, a canary and its twin (the same row with the user's label) in the same one. Twins are
    scored, never learned from.

    Args:
        standings: of every sample by every choice.
        rest: positions of the samples that are not canaries.
        canaries: positions of the canaries with the wrong label.
        twins: positions of the same rows with the user's label, in the order of the canaries.
        apart: whether a choice stands for itself; of the others, the best few are averaged.
        doubts: of the labels of the rest; without, canaries alone speak.
        few: how many.
        seed: draws the folds.
    """
    together, alone = standings[~apart], _normal(standings[apart])
    single = _normal(together)
    fold = np.full(standings.shape[1], -1)
    fold[rest] = held_out_folds(len(rest), FOLDS, seed=seed)
    fold[canaries] = fold[twins] = held_out_folds(len(canaries), FOLDS, seed=seed + 1)

    def sources(chosen_by: np.ndarray, among: _Among) -> np.ndarray:
        """Of every sample, where the few that are averaged were chosen by some canaries and some of the rest."""
        if not len(together):
            return alone
        mean = average(together, _farthest(among, single[:, chosen_by]), few)
        return np.concatenate([_normal(standing(mean, mean[rest]))[None], alone])

    harm, weights = np.empty(standings.shape[1]), []
    for f in range(FOLDS):
        known, kept = canaries[fold[canaries] != f], fold[rest] != f
        believed = None if doubts is None else doubts.take(kept)
        among = _among(single[:, rest[kept]], believed)
        # Canaries that chose an average look better by it than others: each is looked at by what the others chose.
        inner = [(known[fold[known] != g], known[fold[known] == g]) for g in range(FOLDS) if g != f]
        seen = np.concatenate([sources(others, among)[:, mine] for others, mine in inner], axis=1)
        everything = sources(known, among)
        here = everything[:, rest[kept]]
        weights.append(_weights(here, _distance(_among(here, believed), seen)))
        mine, score = np.flatnonzero(fold == f), weights[-1] @ everything
        # Each fold has its own weights: standings among the rest make them one scale.
        harm[mine] = standing(score[mine], score[rest])
    best = _farthest(_among(single[:, rest], doubts), single[:, canaries])[:few]
    return Learned(harm, np.mean(weights, axis=0), np.flatnonzero(~apart)[best])


@dataclass(frozen=True)
class _Among:
    """What some of the rest say of each source: its mean and variance, and its distance of wrong from right by doubts.

    Without doubts the distance is unknown, and the contrast of canaries taken to be whole.
    """

    mean: Float[np.ndarray, " source"]
    variance: Float[np.ndarray, " source"]
    told: Float[np.ndarray, " source"] | None
    contrast: float


def _among(rest: Float[np.ndarray, "source row"], doubts: Doubts | None) -> _Among:
    told, contrast = None, 1.0
    if doubts is not None:
        wrong, contrast = doubts.wrong, doubts.contrast
        told = rest @ wrong / wrong.sum() - rest @ (1 - wrong) / (1 - wrong).sum()
    return _Among(rest.mean(axis=1), rest.var(axis=1), told, contrast)


def _distance(among: _Among, canaries: Float[np.ndarray, "source canary"]) -> Float[np.ndarray, " source"]:
    """Difference of the means of wrong and right labels by each source, from canaries and doubts."""
    ahead: np.ndarray = (canaries.mean(axis=1) - among.mean) / among.contrast
    if among.told is None:
        return ahead
    spread = among.variance / canaries.shape[1] / among.contrast**2
    result: np.ndarray = among.told + BESIDE**2 / (BESIDE**2 + spread) * (ahead - among.told)
    return result


def _farthest(among: _Among, canaries: Float[np.ndarray, "source canary"]) -> Int[np.ndarray, " source"]:
    """Positions of the sources, that of the largest distance first."""
    order: np.ndarray = np.argsort(-_distance(among, canaries), kind="stable")
    return order


def _weights(
    rest: Float[np.ndarray, "source row"], ahead: Float[np.ndarray, " source"]
) -> Float[np.ndarray, " source"]:
    """Weights of sum 1; alike where no source tells wrong from right labels."""
    from scipy.optimize import nnls

    root = np.linalg.cholesky(np.atleast_2d(np.cov(rest)) + RIDGE * np.eye(len(rest)))
    found: np.ndarray = nnls(root.T, np.linalg.solve(root, ahead))[0]
    total = found.sum()
    return found / total if total > 0 else np.full(len(found), 1 / len(found))


def _normal(standings: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    from scipy.special import ndtri

    result: np.ndarray = ndtri(np.clip(standings, _EDGE, 1 - _EDGE))
    return result
