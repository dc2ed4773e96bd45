"""The control stage: which harm to use, how many labels are wrong, where to cut, and how sure that is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from undertow.aggregation.cut import harm_ranks
from undertow.aggregation.stability import Bootstrap
from undertow.controls.conformal import (
    discoveries,
    expected_precision,
    null_share,
    p_values,
    sure_precision,
    wrong_probability,
)
from undertow.controls.share import Share, least_share, mixture_share, unseen_share
from undertow.controls.shift import effective_number
from undertow.controls.sources import SourceRate, informed_by_source, source_rates
from undertow.controls.stacking import percentile, probe_part, separation
from undertow.controls.transitions import likeliest_other
from undertow.influence.store import user_rows
from undertow.pipeline.controls.planned import Planned
from undertow.pipeline.controls.scores import Judged, Scores, ScoreSheet, asked_harm, candidate_harms
from undertow.pipeline.results import ASKED, ControlsResult, JudgedResult, TransitionResult
from undertow.pipeline.scorer import Scorer, Scoring, memory_bytes
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter

# Fewer effective controls than these make no promise: a single one of them is a twentieth of all.
FEWEST_EFFECTIVE = 20
_RESAMPLES = 50
_SHOWN = 12


@dataclass(frozen=True)
class Controlled:
    """What controls say of the user's rows.

    Attributes:
        harm: of each row, [n]; percentile of its score, higher is worse.
        flagged: how many of the most harmful rows are flagged, to be looked through.
        removed: how many of these can be acted on unseen.
        wrong: probability of each row's label to be wrong.
        p_value: conformal p-value of each row.
        stability: share of the resamples of the queries that flag each row; None where the tensor was not kept.
        canary: class index that each canary was trained on, -1 elsewhere.
        suggested: class index of the likeliest other label of each row.
        suggestion: probability that this label is the right one.
        probe: probability of each row's label by the probes.
        rates: noise rates of the sources, worst first; empty where no column names them.
        result: all else, as plain values.
        choices: table of all scores, best first.
        cuts: table of all cuts.
    """

    harm: Float[np.ndarray, " n"]
    flagged: int
    removed: int
    wrong: Float[np.ndarray, " n"]
    p_value: Float[np.ndarray, " n"]
    stability: Float[np.ndarray, " n"] | None
    canary: Int[np.ndarray, " n"]
    suggested: Int[np.ndarray, " n"]
    suggestion: Float[np.ndarray, " n"]
    probe: Float[np.ndarray, " n"]
    rates: tuple[SourceRate, ...]
    result: ControlsResult
    choices: pd.DataFrame
    cuts: pd.DataFrame


def control_stage(
    influence: xr.Dataset, planned: Planned, settings: AuditSettings, reporter: Reporter | None = None
) -> Controlled:
    """Choose the harm, hold it against rows known to be good, and say what follows.

    Args:
        influence: of the user's rows, canaries and anchors.
        planned: the controls.
        settings: false discovery rates, cut, seed, and a harm where the user chose one.
        reporter: shows progress.
    """
    sheet = ScoreSheet(influence, planned, candidate_harms(influence, settings, reporter))
    part = _probe_part(influence, planned)
    stack = sheet.stack(settings.estimators[0], part)
    if settings.chosen:
        sheet.add(ASKED, asked_harm(influence, settings, reporter), within_labels=False)
    judged = sheet.judged(stack)
    scores = _used(sheet, stack, settings)
    p = p_values(scores.rows, scores.null)
    good = null_share(p)
    share = _share(scores, planned)
    cuts = _cut_table(scores, p, good, share)
    flagged, removed, refused = _cuts(p, good, scores, settings)
    alone, sources = wrong_probability(p, good), planned.train.sources
    rates = () if sources is None else tuple(source_rates(alone, sources))
    wrong = alone if sources is None else informed_by_source(alone, sources)
    labels = planned.train.labels
    posterior = planned.probed.posterior(planned.probed.rows, labels)
    suggested, of_others = likeliest_other(posterior, labels)
    harm = percentile(scores.rows, scores.rows)
    order = np.argsort(harm_ranks(harm, seed=settings.seed))
    canary = np.full(len(labels), -1)
    canary[planned.canaries.positions] = planned.canaries.labels
    result = _result(scores, judged, share, planned, part)
    return Controlled(
        harm,
        flagged,
        removed,
        wrong,
        p,
        _stability(influence, settings, order[:flagged]),
        canary,
        suggested,
        wrong * of_others,
        planned.probed.rows[np.arange(len(labels)), labels],
        rates,
        result.model_copy(update=_cut_facts(cuts, flagged, removed, refused, scores, order)),
        _choice_table(judged, scores.name),
        cuts,
    )


def _probe_part(influence: xr.Dataset, planned: Planned) -> float:
    """Weight of the probe, by how well it and the model separate the classes of the queries."""
    labels, tuned = influence["query_label"].values, influence["query_probability"].values
    own = planned.probed.trusted[planned.queries]
    return probe_part(separation(own, labels), separation(tuned, labels))


def _used(sheet: ScoreSheet, stack: Scores, settings: AuditSettings) -> Scores:
    """The harm that the user chose, or the stack, or what anchors prefer to it."""
    if settings.chosen:
        return sheet.single(ASKED, sheet.trained[ASKED])
    return sheet.choose(stack, settings.seed)


def _share(scores: Scores, planned: Planned) -> Share:
    # Canaries are rows whose label is probably right: left out, they would raise the share of the others.
    rest = scores.rows[planned.rest]
    part = len(rest) / len(scores.rows)
    least = part * least_share(rest, scores.null)
    if not len(scores.canaries):
        return Share(least, float("nan"), float("nan"), float("nan"), float("nan"))
    unseen = unseen_share(scores.canaries, len(rest), scores.null)
    like, low, high = (part * end for end in mixture_share(rest, scores.canaries, scores.null))
    return Share(least, unseen, like, low, high)


def _cuts(p: np.ndarray, good: float, scores: Scores, settings: AuditSettings) -> tuple[int, int, str]:
    """How many rows to flag and to remove, and why none."""
    if settings.cut is not None:
        count = round(settings.cut * len(p))
        return count, count, ""
    if scores.null.number < FEWEST_EFFECTIVE:
        why = (
            f"the trusted rows count as {scores.null.number:.0f} only, because their texts differ from the training "
            "texts. Trusted rows drawn from the training data (undertow sample) would count in full"
        )
        return 0, 0, why
    looked, unseen = (discoveries(p, rate, good) for rate in settings.rates)
    why = "" if looked else "no row stands out from the rows that are known to be good"
    return looked, min(unseen, looked), why


def _cut_table(scores: Scores, p: np.ndarray, good: float, share: Share) -> pd.DataFrame:
    """What is expected of every cut, from no row (the first) to all of them."""
    precision = expected_precision(p, good)
    wrong = np.arange(len(p) + 1) * precision
    return pd.DataFrame(
        {
            "rows": np.arange(len(p) + 1),
            "precision": precision,
            "sure_precision": np.minimum(sure_precision(scores.rows, scores.null, 1 - share.least), precision),
            "wrong": wrong,
            "p_value": np.concatenate([[0.0], np.sort(p)]),
        }
    )


def _result(scores: Scores, judged: list[Judged], share: Share, planned: Planned, part: float) -> ControlsResult:
    probed = planned.probed
    return ControlsResult(
        harm=scores.name,
        canaries=len(planned.canaries),
        anchors=0 if planned.anchors is None else len(planned.anchors),
        trusted=len(probed.labels),
        effective=effective_number(probed.shift.trusted),
        shift_auroc=probed.shift.auroc,
        shift_p_value=probed.shift.p_value,
        probe_part=part,
        share_least=share.least,
        share_unseen=_known(share.unseen),
        share_like_canaries=_known(share.like_canaries),
        share_low=_known(share.low),
        share_high=_known(share.high),
        judged=tuple(_judged(j) for j in judged[:_SHOWN]),
        transitions=_transitions(planned),
    )


def _judged(judged: Judged) -> JudgedResult:
    return JudgedResult(name=judged.name, **{name: _known(value) for name, value in vars(judged.evidence).items()})


def _known(value: float) -> float | None:
    """None for a number that there is not: ``run.json`` knows no NaN."""
    return float(value) if np.isfinite(value) else None


def _transitions(planned: Planned, most: int = 5) -> tuple[TransitionResult, ...]:
    """The commonest transitions, as shares of all rows."""
    probed, classes = planned.probed, planned.train.classes
    given = np.bincount(planned.train.labels, minlength=len(classes)) / len(planned.train)
    joint = given[:, None] * probed.transitions
    np.fill_diagonal(joint, 0)
    order = np.argsort(-joint, axis=None, kind="stable")[:most]
    places = [np.unravel_index(at, joint.shape) for at in order.tolist()]
    return tuple(
        TransitionResult(given=classes[int(g)], true=classes[int(t)], share=float(joint[g, t]))
        for g, t in places
        if joint[g, t] > 0
    )


def _cut_facts(
    cuts: pd.DataFrame, flagged: int, removed: int, refused: str, scores: Scores, order: Int[np.ndarray, " n"]
) -> dict[str, object]:
    """What is promised of both cuts, and the power of the first."""

    def promised(rows: int) -> tuple[float, float]:
        line = cuts.iloc[rows]
        return (float(line["precision"]), float(line["sure_precision"])) if rows else (0.0, 0.0)

    power = None
    if len(scores.canaries):
        power = float((scores.canaries >= scores.rows[order[flagged - 1]]).mean()) if flagged else 0.0
    precision, sure = promised(flagged)
    removed_precision, removed_sure = promised(removed)
    return {
        "flagged": flagged,
        "precision": precision,
        "sure_precision": sure,
        "removed": removed,
        "removed_precision": removed_precision,
        "removed_sure_precision": removed_sure,
        "power": power,
        "refused": refused,
    }


def _choice_table(judged: list[Judged], used: str) -> pd.DataFrame:
    table = pd.DataFrame([{"name": j.name, **vars(j.evidence)} for j in judged])
    table["used"] = table["name"] == used
    return table


def _stability(
    influence: xr.Dataset, settings: AuditSettings, flagged: Int[np.ndarray, " flagged"]
) -> Float[np.ndarray, " n"] | None:
    """How often resamples of the queries flag each row by the first estimator; None where they cannot say."""
    if "influence" not in influence or not len(flagged):
        return None
    own = user_rows(influence)
    n, labels = own.sizes["sample"], own["sample_label"].values
    cut = min(len(flagged) / n, 0.999)
    cuts = np.bincount(labels[flagged], minlength=labels.max() + 1) / np.maximum(np.bincount(labels), 1)
    bootstrap = Bootstrap(_RESAMPLES, seed=settings.seed, cut=cut, labels=labels, cuts=cuts)
    if settings.chosen:
        bootstrap = Bootstrap(_RESAMPLES, seed=settings.seed, cut=cut)
    scoring = Scoring(settings.estimators[0], settings.layers, settings.aggregate, settings.k, settings.counted)
    found = Scorer(own, memory=memory_bytes(settings.memory)).scores([scoring], bootstrap)[0]
    return None if found.stability is None else found.stability.flagged
