"""A learned aggregation: a small model that tells canaries from the rest by their standings in all choices."""

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.choices import FEW, average, best_first, held_out_folds
from undertow.calibrate.standing import standing

FOLDS = 5
COMPONENTS = 8
# Inverse strength of the L2 penalty: features are scaled alike, so it means the same on any data.
STRENGTH = 0.0001
# Deviation of the average among the features, each component having 1: what is learned stays near the average.
ANCHOR = 3.0


def learned_harm(
    standings: Float[np.ndarray, "choice sample"],
    rest: Int[np.ndarray, " row"],
    canaries: Int[np.ndarray, " canary"],
    twins: Int[np.ndarray, " canary"],
    *,
    seed: int,
) -> Float[np.ndarray, " sample"]:
    """Harm of each sample by a model that never saw it: the standing of its odds of being a canary.

    The rest holds unknown errors, so the odds are those of positive and unlabelled samples; their order is that of
    the odds of being wrong, where errors look like canaries. Logistic regression with an L2 penalty on the average
    of the choices that the canaries it learns from find best, which is scaled up and so penalised less, and on a few
    principal components of all standings; five folds, a canary and its twin (the same row with the user's label) in
    the same one. Twins are scored, never learned from.

    Args:
        standings: of every sample by every choice.
        rest: positions of the samples that are not canaries.
        canaries: positions of the canaries with the wrong label.
        twins: positions of the same rows with the user's label, in the order of the canaries.
        seed: draws the folds.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    centred = standings.T - 0.5
    fold = np.full(standings.shape[1], -1)
    fold[rest] = held_out_folds(len(rest), FOLDS, seed=seed)
    fold[canaries] = fold[twins] = held_out_folds(len(canaries), FOLDS, seed=seed + 1)
    known = np.concatenate([rest, canaries])
    is_canary = np.zeros(standings.shape[1], dtype=int)
    is_canary[canaries] = 1
    harm = np.empty(standings.shape[1])
    for f in range(FOLDS):
        learn = known[fold[known] != f]
        parts = min(COMPONENTS, centred.shape[1], len(learn) - 1)
        components = make_pipeline(
            PCA(parts, svd_solver="covariance_eigh" if centred.shape[1] < len(learn) else "full"), StandardScaler()
        ).fit(centred[learn])
        best = best_first(standings[:, canaries[fold[canaries] != f]])
        anchor = average(standings, best, FEW) - 0.5
        features = np.column_stack([ANCHOR * anchor / max(anchor[learn].std(), 1e-12), components.transform(centred)])
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500)
        model.fit(features[learn], is_canary[learn])
        mine = np.flatnonzero(fold == f)
        odds = model.decision_function(features[mine])
        # Each fold has its own model: standings among its own rest make them one scale.
        harm[mine] = standing(odds, odds[np.isin(mine, rest)])
    return harm
