"""One harm from many: scores of the fine-tuned model and predictions of probes, on one scale."""

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.controls.conformal import Null
from undertow.controls.shift import effective_number

# Part of the probes' log-odds in the stack; the rest is the scores of the fine-tuned model. At 0.5 or 0.7 the NDR@30
# of the benchmark moves by 0.005.
PROBE_WEIGHT = 0.6
# Rows of one stratum that are scale enough: as many of all rows are added. Halved or doubled, only classes of fewer
# than a hundred rows move.
ENOUGH = 30
# Percentiles are kept this far from 0 and 1 before they become normal scores.
_EDGE = 0.002
# Anchors that lend their trained scores to a trusted row that was not trained on, as a part of all anchors.
DONORS = 0.1


def percentile(
    values: Float[np.ndarray, " value"], reference: Float[np.ndarray, " row"]
) -> Float[np.ndarray, " value"]:
    """Share of the reference that is lower, ties counted half."""
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    result: np.ndarray = below / (2 * len(ordered))
    return result


def normal_scores(percentiles: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Quantiles of the normal distribution at some percentiles."""
    from scipy.special import ndtri

    result: np.ndarray = ndtri(np.clip(percentiles, _EDGE, 1 - _EDGE))
    return result


def percentile_within(
    values: Float[np.ndarray, " value"],
    strata: Int[np.ndarray, " value"],
    reference: Bool[np.ndarray, " value"],
) -> Float[np.ndarray, " value"]:
    """Percentile of each value among the reference rows of its stratum, such as its label.

    A model that learned from wrong labels of one class leans towards another, and harms lean with it; within one label
    that has no effect. `ENOUGH` rows of the percentile among all are added to those of a stratum.
    """
    everyone = percentile(values, values[reference])
    result = np.empty(len(values))
    for stratum in np.unique(strata):
        mine = strata == stratum
        own = values[mine & reference]
        within = len(own) * percentile(values[mine], own) if len(own) else 0.0
        result[mine] = (within + ENOUGH * everyone[mine]) / (len(own) + ENOUGH)
    return result


def stacked(
    probe: Float[np.ndarray, " value"], trained: Float[np.ndarray, " value"], part: float = PROBE_WEIGHT
) -> Float[np.ndarray, " value"]:
    """The harm that is used: a fixed weighted mean of normal scores (an improper linear model, Dawes 1979).

    Args:
        probe: normal scores of the log-odds that the label is wrong, by probes that did not learn from the row.
        trained: mean normal score, within strata, by scores of the fine-tuned model.
        part: weight of the probe.
    """
    return part * probe + (1 - part) * trained


def probe_part(probe: float, tuned: float) -> float:
    """Weight of the probe: `PROBE_WEIGHT`, or less where it separates the trusted classes less than the model.

    Args:
        probe: separation by the probe.
        tuned: separation by the fine-tuned model.
    """
    return PROBE_WEIGHT * float(np.clip(probe / max(tuned, 1e-9), 0, 1))


def separation(probabilities: Float[np.ndarray, "row class"], labels: Int[np.ndarray, " row"]) -> float:
    """Coefficient of discrimination (Tjur 2009), averaged over classes: 0 = not at all, 1 = without doubt.

    For each class, its mean probability where a row has it, less that where a row has another.
    """
    found = []
    for c in np.unique(labels):
        mine = labels == c
        if not mine.all():
            found.append(probabilities[mine, c].mean() - probabilities[~mine, c].mean())
    return float(np.mean(found)) if found else 0.0


def anchored_null(
    probe: Float[np.ndarray, " trusted"],
    weights: Float[np.ndarray, " trusted"],
    anchors: Int[np.ndarray, " anchor"],
    trained: Float[np.ndarray, " anchor"] | None,
    part: float = PROBE_WEIGHT,
) -> Null:
    """Stacked scores of good rows, from all trusted rows.

    Anchors were trained on, so that both parts of their score are known. Of the other trusted rows the probe's part is
    known, and the other is that of the anchors nearest by the probe (nearest-neighbour hot deck, Andridge and Little
    2010): each of these donors gives one score, and they share the weight of the row. Without trained scores all
    trusted rows count as they are.

    Args:
        probe: normal scores of all trusted rows.
        weights: density ratios of all trusted rows.
        anchors: positions of the anchors among them.
        trained: of the anchors; None where nothing was trained on them.
        part: weight of the probe in the stack.
    """
    number = effective_number(weights)
    if trained is None:
        return Null(probe, weights, number)
    others = np.setdiff1d(np.arange(len(probe)), anchors)
    donors = min(max(5, round(DONORS * len(anchors))), len(anchors))
    nearest = np.argsort(np.abs(probe[others][:, None] - probe[anchors]), axis=1, kind="stable")[:, :donors]
    lent = stacked(np.repeat(probe[others], donors), trained[nearest].ravel(), part)
    own = stacked(probe[anchors], trained, part)
    shared = np.repeat(weights[others] / donors, donors)
    return Null(np.concatenate([own, lent]), np.concatenate([weights[anchors], shared]), number)
