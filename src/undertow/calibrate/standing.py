"""Where a harm stands among those of the rows that are not canaries: the scale on which all scores are alike."""

import numpy as np
from jaxtyping import Float, Int


def standing(values: Float[np.ndarray, " value"], reference: Float[np.ndarray, " row"]) -> Float[np.ndarray, " value"]:
    """Share of the reference that has a lower harm, ties counted half; 0 = least harmful, 1 = most.

    The mean standing of canaries among the rest is the AUROC of canaries against the rest.
    """
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    result: np.ndarray = below / (2 * len(ordered))
    return result


def standings(
    harms: Float[np.ndarray, "choice sample"], rest: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "choice sample"]:
    """Standing of every sample by every choice, among the samples at the positions ``rest``."""
    return np.stack([standing(harm, harm[rest]) for harm in harms])


def matched(values: Float[np.ndarray, " value"], reference: Float[np.ndarray, " row"]) -> Float[np.ndarray, " value"]:
    """Values moved to the quantiles of the reference, in their own order; ties stay tied.

    For rows that are a random part of all but whose scores are shifted, as those of canaries with the user's label
    at a model that was trained on another one.
    """
    own = standing(values, values)
    return np.quantile(reference, own, method="hazen") if len(values) else values.copy()
