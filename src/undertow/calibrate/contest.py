"""Which way to make one harm of all choices: a learned one, the average of the best few, or the best one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.calibrate.choices import FEW, Ranking, average, held_out_choice, held_out_folds, intervals, rank_choices
from undertow.calibrate.learned import FOLDS, learned_harm
from undertow.calibrate.mixture import Doubts
from undertow.calibrate.standing import standing

AVERAGE, SINGLE, LEARNED = "average", "single", "learned"


@dataclass(frozen=True)
class Entry:
    """One way, judged by canaries that it was not chosen by.

    Attributes:
        name: ``learned``, ``average``, ``single``, or what a fixed choice is called.
        auroc: held-out AUROC of canaries against the rest, with a 95% interval over canaries.
        ahead: AUROC above that of the learned way, likewise.
    """

    name: str
    auroc: tuple[float, float, float]
    ahead: tuple[float, float, float]


@dataclass(frozen=True)
class Contest:
    """What the contest gave.

    Attributes:
        winner: name of the way that is used.
        harm: standing of every sample by it; 1 = most harmful.
        held_out: standing of every canary by it, where this canary had no part in it.
        entries: all ways, in the order they were tried.
        ranking: of the single choices.
        weights: of what the learned way weighs: the average of the best few choices, and each that stands for itself.
        averaged: positions of the choices that the winner averages.
    """

    winner: str
    harm: Float[np.ndarray, " sample"]
    held_out: Float[np.ndarray, " canary"]
    entries: tuple[Entry, ...]
    ranking: Ranking
    weights: Float[np.ndarray, " source"]
    averaged: Int[np.ndarray, " few"]


def contest(
    standings: Float[np.ndarray, "choice sample"],
    rest: Int[np.ndarray, " row"],
    canaries: Int[np.ndarray, " canary"],
    twins: Int[np.ndarray, " canary"],
    costs: Float[np.ndarray, " choice"],
    *,
    apart: Bool[np.ndarray, " choice"] | None = None,
    doubts: Doubts | None = None,
    fixed: dict[str, Float[np.ndarray, " sample"]] | None = None,
    few: int = FEW,
    times: int = 1000,
    seed: int = 0,
) -> Contest:
    """Judge every way by held-out canaries, and use the learned one unless another is surely better.

    The best choice, the few that are averaged, and the weights that are learned are found by four fifths of the
    canaries and judged by the last fifth, in turn. Another way than the learned one is used where the whole 95%
    interval of its gain over it (of the same canaries) is above 0.

    Args:
        standings: of every sample by every choice, among the rest of its label.
        rest: positions of the samples that are not canaries.
        canaries: positions of the canaries with the wrong label.
        twins: positions of the same rows with the user's label.
        costs: of each choice; ties go to the cheaper.
        apart: choices that the learned way weighs one by one, where it averages the best few of the others; none by
            default.
        doubts: of the labels of the rest, that the learned way goes by beside the canaries.
        fixed: standings by choices to compare with, by name, that are never used.
        few: how many choices are averaged.
        times: resamples of the canaries.
        seed: of folds and resamples.
    """
    alone = np.zeros(len(standings), dtype=bool) if apart is None else apart
    ranking = rank_choices(standings[:, canaries], costs.tolist(), times=times, seed=seed)
    fold = held_out_folds(len(canaries), FOLDS, seed=seed + 1)
    learned = learned_harm(standings, rest, canaries, twins, alone, doubts, few=few, seed=seed)
    judged = {
        LEARNED: learned.harm[canaries],
        AVERAGE: held_out_choice(standings, rest, canaries, fold, few),
        SINGLE: held_out_choice(standings, rest, canaries, fold, 1),
        **{name: harm[canaries] for name, harm in (fixed or {}).items()},
    }
    entries = _entries(judged, times, seed)
    ahead = [e for e in entries if e.name in (SINGLE, AVERAGE) and e.ahead[1] > 0]
    winner = max(ahead, key=lambda e: e.ahead[0]).name if ahead else LEARNED
    harm, averaged = {
        LEARNED: (learned.harm, learned.averaged),
        AVERAGE: (average(standings, ranking.order, few), ranking.order[:few]),
        SINGLE: (standings[ranking.chosen], np.array([ranking.chosen])),
    }[winner]
    return Contest(winner, standing(harm, harm[rest]), judged[winner], entries, ranking, learned.weights, averaged)


def _entries(judged: dict[str, np.ndarray], times: int, seed: int) -> tuple[Entry, ...]:
    values = np.stack(list(judged.values()))
    found = intervals(np.concatenate([values, values - judged[LEARNED]]), times=times, seed=seed)
    auroc, ahead = np.split(found, 2)
    return tuple(
        Entry(name, tuple(own), tuple(gain))
        for name, own, gain in zip(judged, auroc.tolist(), ahead.tolist(), strict=True)
    )
