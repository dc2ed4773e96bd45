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
# Scores separate where the AUROC of canaries is above a half by this part of what can be.
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

    def promised(self, rows: int) -> tuple[float, float, float]:
        """Precision at a cut, and its ends."""
        return float(self.precision[rows]), float(self.precision_low[rows]), float(self.precision_high[rows])


@dataclass(frozen=True)
class Suggestion:
    """How many rows to flag, how many of these to remove, and why.

    Attributes:
        rows: number of rows to flag; 0 where nothing is.
        precision: expected of them, with the interval of the share; 0 where none is flagged.
        recall: expected.
        removed: number of the flagged rows that are worth removing unseen, the most harmful ones.
        removed_precision: expected of these, with the interval of the share; 0 where there are none.
        refused: why nothing is flagged; empty where something is.
    """

    rows: int
    precision: tuple[float, float, float]
    recall: float
    removed: int
    removed_precision: tuple[float, float, float]
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


def suggest(
    cuts: Cuts,
    share: Share,
    auroc: tuple[float, float],
    goal: Goal | None = None,
    *,
    vouched: bool = False,
    unlearned: str = "",
) -> Suggestion:
    """The cut that serves the goal, or none where there is no evidence to cut by.

    The best F1 flags rows down to a probability of half its value, to be looked through. Taking out right rows with the
    wrong ones helps no model: of the flagged rows, those that are more likely wrong than right are worth removing
    unseen. Where another goal is stated, all of them are.

    Args:
        cuts: as `expected_cuts` gives them.
        share: of wrong labels.
        auroc: ends of the interval of the AUROC of canaries by the harm that orders the rows. Even the lower one has to
            separate; where others vouch for the harm, the upper one.
        goal: by default, the best F1.
        vouched: that the harm tells wrong labels from right ones is known from others than the canaries.
        unlearned: a class that the model gets right less often than chance, of trusted rows, if there is one.
    """
    aim = goal or Goal()
    aim.check()
    highest = highest_auroc(share.value, len(share.reading.priors))
    needed, (low, high) = 0.5 + SEPARATE * (highest - 0.5), auroc
    if (high if vouched else low) <= needed:
        why = "the scores do not tell canaries from the rest well enough"
        return _nothing(f"{why} (AUROC {low:.2f} to {high:.2f}), so no cut can be trusted")
    if share.low < CLEAN or share.high - share.low > WIDE:
        return _nothing(_about_nothing(share, unlearned))
    best = float(cuts.precision[int(np.argmax(cuts.f1))])
    if best * (1 - share.value) < LIFT * share.value * (1 - best):
        return _nothing(_no_lift(share, unlearned))
    if aim.precision is not None:
        held = np.flatnonzero(cuts.precision >= aim.precision)
        rows = int(held[-1]) if len(held) else 0
        if rows == 0:
            return _nothing(f"no cut reaches a precision of {aim.precision:.0%}")
    elif aim.recall is not None:
        rows = int(np.argmax(cuts.recall >= aim.recall))
    else:
        rows = int(np.argmax(cuts.f1))
    removed = min(rows, cuts.likely) if aim == Goal() else rows
    promised = cuts.promised(removed) if removed else (0.0, 0.0, 0.0)
    return Suggestion(rows, cuts.promised(rows), float(cuts.recall[rows]), removed, promised)


def _nothing(why: str) -> Suggestion:
    none = (0.0, 0.0, 0.0)
    return Suggestion(0, none, 0.0, 0, none, why)


def _no_lift(share: Share, unlearned: str) -> str:
    """Why nothing is flagged where labels are wrong, but which ones cannot be told."""
    why = _UNLEARNED.format(unlearned) if unlearned else "the model has learned too little from them"
    return f"{share.low:.0%} to {share.high:.0%} of the labels may be wrong, but which ones cannot be told: {why}"


def _about_nothing(share: Share, unlearned: str) -> str:
    """Why nothing is flagged where the share may be 0 or anything: it is small, or it is not known."""
    if unlearned:
        return f"how many labels are wrong cannot be told: {_UNLEARNED.format(unlearned)}"
    lowest = "none" if share.low < CLEAN else f"{share.low:.0%}"
    if share.high < MUCH:
        return (
            f"the labels look right (at most {share.high:.1%} of the rows are wrong, perhaps none, unless wrong labels "
            "gather in texts that are hard to tell)"
        )
    return (
        f"how many labels are wrong cannot be told: anything from {lowest} to {share.high:.0%} of the rows goes with "
        "what the model says of them, so no cut can be trusted"
    )


_UNLEARNED = (
    "of the trusted rows labelled '{}' the model gets fewer right than chance would, so it has not learned that class, "
    "or learned it from wrong labels"
)
