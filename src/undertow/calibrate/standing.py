"""Where a harm stands among those of the rows that are not canaries: the scale on which all scores are alike."""

import numpy as np
from jaxtyping import Float, Int

# Rows of one label that are scale enough: as many of all rows are added to them.
ENOUGH = 30


def standing(values: Float[np.ndarray, " value"], reference: Float[np.ndarray, " row"]) -> Float[np.ndarray, " value"]:
    """Share of the reference that has a lower harm, ties counted half; 0 = least harmful, 1 = most.

    The mean standing of canaries among the rest is the AUROC of canaries against the rest.
    """
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    result: np.ndarray = below / (2 * len(ordered))
    return result


def standings(
    harms: Float[np.ndarray, "choice sample"], rest: Int[np.ndarray, " row"], labels: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "choice sample"]:
    """Standing of every sample by every choice, among the samples at the positions ``rest`` that carry its label.

    A model that learned from flips of one class leans towards another, and harms lean with it: whole labels then look
    bad. Among rows of one label that is without effect. Few rows of a label would be a coarse scale, so that all rows
    are added to them with the weight of `ENOUGH`.

    Args:
        harms: higher is worse.
        rest: positions of the rows that are not canaries.
        labels: of each sample, as class index; of a canary the one it was trained on.
    """
    groups = [(np.flatnonzero(labels == c), rest[labels[rest] == c]) for c in np.unique(labels)]
    result = np.empty(harms.shape)
    for line, harm in zip(result, harms, strict=True):
        everyone = standing(harm, harm[rest])
        for mine, own in groups:
            within = len(own) * standing(harm[mine], harm[own]) if len(own) else 0.0
            line[mine] = (within + ENOUGH * everyone[mine]) / (len(own) + ENOUGH)
    return result


def matched(values: Float[np.ndarray, " value"], reference: Float[np.ndarray, " row"]) -> Float[np.ndarray, " value"]:
    """Values moved to the quantiles of the reference, in their own order; ties stay tied.

    For rows that are a random part of all but whose scores are shifted, as those of canaries with the user's label
    at a model that was trained on another one.
    """
    own = standing(values, values)
    return np.quantile(reference, own, method="hazen") if len(values) else values.copy()
