"""A learned aggregation: sources of harm, weighed by how well they tell canaries from the rest together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.calibrate.choices import FEW, average, best_first, held_out_folds
from undertow.calibrate.standing import standing

FOLDS = 5
# Ridge on the covariance of the sources, whose variances are about 1: weights of like sources are held alike.
RIDGE = 3.0
# Standings are taken this far from 0 and 1 before they become normal scores.
_EDGE = 0.002


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        harm: standing of each sample, by weights that it had no part in.
        weights: of the average of the best few choices and of each choice that stands for itself; their sum is 1.
    """

    harm: Float[np.ndarray, " sample"]
    weights: Float[np.ndarray, " source"]


def learned_harm(
    standings: Float[np.ndarray, "choice sample"],
    rest: Int[np.ndarray, " row"],
    canaries: Int[np.ndarray, " canary"],
    twins: Int[np.ndarray, " canary"],
    apart: Bool[np.ndarray, " choice"],
    *,
    few: int = FEW,
    seed: int,
) -> Learned:
    """Fisher's linear discriminant of canaries and rest, with weights that are not negative, cross-fitted.

    The sources are the average of the few choices that canaries find best, and each choice that stands for itself,
    as normal scores of their standings. With the covariance C of the sources over the rest and the difference d of the
    means of canaries and rest, the weights are the w >= 0 that make w (C + ridge) w / 2 - d w least: sources that say
    the same share a weight, one that tells nothing gets none. The rest holds unknown errors, so canaries are positive
    and the rest unlabelled; that shortens d, but hardly turns it where errors look like canaries. Five folds, a canary
    and its twin (the same row with the user's label) in the same one. Twins are scored, never learned from.

    Args:
        standings: of every sample by every choice.
        rest: positions of the samples that are not canaries.
        canaries: positions of the canaries with the wrong label.
        twins: positions of the same rows with the user's label, in the order of the canaries.
        apart: whether a choice stands for itself; of the others, the best few are averaged.
        few: how many.
        seed: draws the folds.
    """
    together, alone = standings[~apart], _normal(standings[apart])
    fold = np.full(standings.shape[1], -1)
    fold[rest] = held_out_folds(len(rest), FOLDS, seed=seed)
    fold[canaries] = fold[twins] = held_out_folds(len(canaries), FOLDS, seed=seed + 1)

    def sources(chosen_by: np.ndarray) -> np.ndarray:
        """Of every sample, where the few that are averaged were chosen by some canaries."""
        if not len(together):
            return alone
        mean = average(together, best_first(together[:, chosen_by]), few)
        return np.concatenate([_normal(standing(mean, mean[rest]))[None], alone])

    harm, weights = np.empty(standings.shape[1]), []
    for f in range(FOLDS):
        known = canaries[fold[canaries] != f]
        # Canaries that chose an average look better by it than others: each is looked at by what the others chose.
        inner = [(known[fold[known] != g], known[fold[known] == g]) for g in range(FOLDS) if g != f]
        seen = np.concatenate([sources(others)[:, mine] for others, mine in inner], axis=1)
        everything = sources(known)
        weights.append(_weights(everything[:, rest[fold[rest] != f]], seen))
        mine, score = np.flatnonzero(fold == f), weights[-1] @ everything
        # Each fold has its own weights: standings among the rest make them one scale.
        harm[mine] = standing(score[mine], score[rest])
    return Learned(harm, np.mean(weights, axis=0))


def _weights(
    rest: Float[np.ndarray, "source row"], canaries: Float[np.ndarray, "source canary"]
) -> Float[np.ndarray, " source"]:
    """Weights of sum 1; alike where no source tells canaries from the rest."""
    from scipy.optimize import nnls

    root = np.linalg.cholesky(np.atleast_2d(np.cov(rest)) + RIDGE * np.eye(len(rest)))
    ahead = canaries.mean(axis=1) - rest.mean(axis=1)
    found: np.ndarray = nnls(root.T, np.linalg.solve(root, ahead))[0]
    total = found.sum()
    return found / total if total > 0 else np.full(len(found), 1 / len(found))


def _normal(standings: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    from scipy.special import ndtri

    result: np.ndarray = ndtri(np.clip(standings, _EDGE, 1 - _EDGE))
    return result
