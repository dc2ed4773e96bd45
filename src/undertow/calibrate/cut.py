"""Where to cut: precision and recall at every cut, and the one that serves a goal."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.calibrate.goal import Goal
from undertow.calibrate.share import Share

# Below this, the lower end of the share is no evidence that anything is wrong: trusted texts that differ a little from
# those of the training rows can make as much.
CLEAN = 0.01
# From here on, the upper end of a share that may be 0 says that it is not known.
MUCH = 0.05
# And the share is not known where its interval is wider than this.
WIDE = 0.5
# Scores separate where even the lower end of the AUROC of canaries is above a half by this part of what can be.
SEPARATE = 0.1
# And where a wrong label is likelier among the rows of the best cut than among all, by this ratio of the odds.
LIFT = 1.25


@dataclass(frozen=True)
class Cuts:
    """What is expected of every cut, from no row (the first) to all of them.

    Attributes:
        precision: share of the flagged rows whose label is wrong; of none, that of the first row.
        precision_low: at the lower end of the interval of the share.
        precision_high: at the upper end.
        recall: share of the wrong labels that are flagged.
        f1: harmonic mean of both.
        likely: how many rows are more likely wrong than right.
    """

    precision: Float[np.ndarray, " cut"]
    precision_low: Float[np.ndarray, " cut"]
    precision_high: Float[np.ndarray, " cut"]
    recall: Float[np.ndarray, " cut"]
    f1: Float[np.ndarray, " cut"]
    likely: int


@dataclass(frozen=True)
class Suggestion:
    """How many rows to flag, and why.

    Attributes:
        rows: number of rows; 0 where nothing is to be flagged.
        precision: expected of them, with the interval of the share; 0 where none is flagged.
        recall: expected.
        refused: why nothing is flagged; empty where something is.
    """

    rows: int
    precision: tuple[float, float, float]
    recall: float
    refused: str = ""


def expected_cuts(
    wrong: Float[np.ndarray, " row"], low: Float[np.ndarray, " row"], high: Float[np.ndarray, " row"]
) -> Cuts:
    """Precision and recall of every cut, from the probability of each row's label to be wrong.

    Args:
        wrong: probability of each row, the most harmful first.
        low: the same, at the lower end of the share.
        high: at its upper end.
    """
    counts = np.arange(1, len(wrong) + 1)

    def precision(some: np.ndarray) -> np.ndarray:
        return np.concatenate([some[:1], np.cumsum(some) / counts])

    found = np.concatenate([[0.0], np.cumsum(wrong)])
    recall = found / found[-1] if found[-1] > 0 else np.zeros_like(found)
    right = precision(wrong)
    total = right + recall
    f1 = np.divide(2 * right * recall, total, out=np.zeros_like(total), where=total > 0)
    return Cuts(right, precision(low), precision(high), recall, f1, int((wrong > 0.5).sum()))


def highest_auroc(share: float, classes: int) -> float:
    """AUROC of canaries by harm that is never wrong: part of the rest is wrong too, and some canaries are right now."""
    return 0.5 + 0.5 * max(1 - share * classes / (classes - 1), 0.0)


def suggest(cuts: Cuts, share: Share, auroc_low: float, goal: Goal | None = None, *, unlearned: str = "") -> Suggestion:
    """The cut that serves the goal, or none where there is no evidence to cut by.

    Args:
        cuts: as `expected_cuts` gives them.
        share: of wrong labels.
        auroc_low: lower end of the AUROC of canaries by the harm that orders the rows.
        goal: by default, all rows that are more likely wrong than right: what is removed is then worth it.
        unlearned: a class that the model gets right less often than chance, of trusted rows, if there is one.
    """
    aim = goal or Goal()
    aim.check()
    nothing = (0.0, 0.0, 0.0)
    highest = highest_auroc(share.value, len(share.reading.priors))
    if auroc_low <= 0.5 + SEPARATE * (highest - 0.5):
        why = f"the scores do not tell canaries from the rest well enough (AUROC at least {auroc_low:.2f})"
        return Suggestion(0, nothing, 0.0, f"{why}, so no cut can be trusted")
    if share.low < CLEAN or share.high - share.low > WIDE:
        return Suggestion(0, nothing, 0.0, _about_nothing(share, unlearned))
    best = float(cuts.precision[int(np.argmax(cuts.f1))])
    if best * (1 - share.value) < LIFT * share.value * (1 - best):
        return Suggestion(0, nothing, 0.0, _no_lift(share, unlearned))
    if aim.precision is not None:
        held = np.flatnonzero(cuts.precision >= aim.precision)
        rows = int(held[-1]) if len(held) else 0
        if rows == 0:
            return Suggestion(0, nothing, 0.0, f"no cut reaches a precision of {aim.precision:.0%}")
    elif aim.recall is not None:
        rows = int(np.argmax(cuts.recall >= aim.recall))
    elif aim.best_f1:
        rows = int(np.argmax(cuts.f1))
    else:
        rows = cuts.likely
        if rows == 0:
            return Suggestion(0, nothing, 0.0, _none_likely(share))
    low, value, high = (float(p[rows]) for p in (cuts.precision_low, cuts.precision, cuts.precision_high))
    return Suggestion(rows, (value, low, high), float(cuts.recall[rows]))


def _no_lift(share: Share, unlearned: str) -> str:
    """Why nothing is flagged where labels are wrong, but which ones cannot be told."""
    why = _UNLEARNED.format(unlearned) if unlearned else "the model has learned too little from them"
    return f"{share.low:.0%} to {share.high:.0%} of the labels may be wrong, but which ones cannot be told: {why}"


def _none_likely(share: Share) -> str:
    """Why nothing is flagged where labels are wrong, but none of them surely enough."""
    return (
        f"{share.low:.0%} to {share.high:.0%} of the labels are wrong, but no row is more likely wrong than right; "
        "--best-f1 or --target-recall flag rows to look through"
    )


def _about_nothing(share: Share, unlearned: str) -> str:
    """Why nothing is flagged where the share may be 0 or anything: it is small, or it is not known."""
    if unlearned:
        return f"how many labels are wrong cannot be told: {_UNLEARNED.format(unlearned)}"
    lowest = "none" if share.low < CLEAN else f"{share.low:.0%}"
    if share.high < MUCH:
        return f"the labels look right (at most {share.high:.1%} of the rows are wrong, perhaps none)"
    return (
        f"how many labels are wrong cannot be told: anything from {lowest} to {share.high:.0%} of the rows goes with "
        "what the model says of them, so no cut can be trusted"
    )


_UNLEARNED = (
    "of the trusted rows labelled '{}' the model gets fewer right than chance would, so it has not learned that class, "
    "or learned it from wrong labels"
)
