"""The calibration stage: canaries say which scores to trust, how much is wrong, and where to cut."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from undertow.aggregation.cut import harm_ranks
from undertow.aggregation.stability import Bootstrap
from undertow.calibrate.choices import intervals
from undertow.calibrate.contest import AVERAGE, Contest, contest
from undertow.calibrate.cut import Cuts, Suggestion, expected_cuts, suggest
from undertow.calibrate.evidence import Seen
from undertow.calibrate.mixture import even_doubts
from undertow.calibrate.odds import with_mean
from undertow.calibrate.probability import handed_on, label_offsets, odds_curve
from undertow.calibrate.share import LEAST, Share, doubts, estimate_share
from undertow.calibrate.standing import matched, standing, standings
from undertow.calibrate.told import Told, unlearned_class
from undertow.influence.store import deciding_modules, module_keys, user_rows
from undertow.pipeline.calibrated import Calibrated
from undertow.pipeline.canaries import Planned
from undertow.pipeline.choices import LOSS, PROBE, Tried, try_choices, with_probe
from undertow.pipeline.harm import group_harm, likeliest_other
from undertow.pipeline.probe import Opinion, more_reliable
from undertow.pipeline.results import ASKED, CalibrationResult, ChoiceResult, EntryResult
from undertow.pipeline.scorer import Scorer, Scoring, memory_bytes
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter

# Settings that say how influences become one harm: who sets one of them has chosen.
_CHOOSING = ("layers", "aggregate", "k", "only", "weigh", "correct_only")
_RESAMPLES = 50
_SHOWN = 10
# Separation of the classes of trusted rows from which on a probe, which learned from none of the rows, is known to tell
# right labels from wrong ones. Canaries hardly can where many are wrong, and few of them may miss it by chance.
VOUCHED = 0.1


def calibrate(
    influence: xr.Dataset,
    planned: Planned,
    tuned: Opinion,
    probe: Opinion,
    settings: AuditSettings,
    reporter: Reporter | None = None,
) -> Calibrated:
    """Rank all choices by the canaries, make one harm of them, and say what it means.

    Args:
        influence: of the user's rows and, behind them, the canaries.
        planned: the canaries.
        tuned: what the audited model says of both, and of trusted rows that it was not trained on.
        probe: what a probe says of the same rows, that learned from none of them.
        settings: goal, cut, seed, and a choice where the user made one.
        reporter: shows progress.
    """
    c, n = len(planned.canaries), len(planned.taught)
    twins, canaries = planned.canaries.positions, n + np.arange(c)
    rest = planned.rest
    labels = influence["sample_label"].values
    by_probe = probe.rows.probabilities[np.arange(n + c), labels]
    tried = with_probe(try_choices(influence, settings, reporter), by_probe)
    ranked = standings(tried.harms, rest, labels)
    costs = np.array([choice.cost for choice in tried.choices])
    apart = np.array([choice.kind == PROBE for choice in tried.choices])
    fixed = {name: ranked[i] for name, i in _fixed(tried, settings).items()}
    even = even_doubts(by_probe[rest], probe.rows.probabilities.shape[1])
    found = contest(ranked, rest, canaries, twins, costs, apart=apart, doubts=even, fixed=fixed, seed=settings.seed)
    way, everyone, held_out = found.winner, found.harm, found.held_out
    if _chosen_by_user(settings):
        way, everyone = ASKED, _as_asked(influence, settings, rest, reporter)
        held_out = everyone[canaries]
    reader = more_reliable(tuned, probe)
    told = reader.rows
    beside = None if reader is probe else (probe.rows.take(rest), probe.trusted)
    seen = Seen(everyone[rest], held_out)
    share = estimate_share(*planned.parted(told), reader.trusted, seen, unlearned=beside, seed=settings.seed)
    odds = _odds(everyone, held_out, planned, told, share, asked=way == ASKED)
    if way != ASKED:  # standings are within labels: those of more errors come first
        odds += label_offsets(odds[rest], labels[rest], share.of_label)[labels[:n]]
    harm = standing(odds, odds)
    wrong, low, high = (with_mean(odds, odds[rest], end) for end in (share.value, share.low, share.high))
    order = np.argsort(harm_ranks(harm, seed=settings.seed))
    cuts = expected_cuts(wrong[order], low[order], high[order])
    worst = unlearned_class(reader.trusted)
    unlearned = "" if worst is None else str(planned.audited.classes[worst])
    vouched = told.held_out and share.reading.separation >= VOUCHED
    _, lowest, highest = intervals(held_out[None], times=1000, seed=settings.seed)[0].tolist()
    advice = suggest(cuts, share, (lowest, highest), settings.goal, vouched=vouched, unlearned=unlearned)
    flagged, removed = advice.rows, advice.removed
    if settings.cut is not None:
        flagged = removed = round(settings.cut * n)
    canary = np.full(n, -1)
    canary[twins] = planned.canaries.labels
    moved = float(standing(everyone[twins], everyone[rest]).mean())
    suggested, part = likeliest_other(told.probabilities[:n], labels[:n])
    return Calibrated(
        harm,
        flagged,
        removed,
        wrong,
        low,
        high,
        _stability(influence, tried, found, way, order[:flagged], settings),
        canary,
        suggested,
        wrong * part,
        by_probe[:n],
        _result(tried, found, way, reader, share, advice, moved, c),
        _choice_table(tried, found),
        _cut_table(cuts, n),
    )


def _odds(
    everyone: Float[np.ndarray, " audited"],
    held_out: Float[np.ndarray, " canary"],
    planned: Planned,
    told: Told,
    share: Share,
    *,
    asked: bool,
) -> Float[np.ndarray, " row"]:
    """Log-odds that the label of each of the user's rows is wrong, by where it stands.

    Args:
        everyone: standing of all that is audited.
        held_out: standing of the canaries, by a harm that was not chosen by them.
        planned: the canaries.
        told: what the reader says of all that is audited.
        share: of wrong labels.
        asked: the user chose the harm, so that nobody knows whether it finds as much as the reader does.
    """
    rest, twins = planned.rest, planned.canaries.positions
    place = everyone[: len(planned.taught)].copy()
    place[twins] = matched(everyone[twins], everyone[rest])
    doubted, classes = doubts(told.take(rest), share), told.probabilities.shape[1]
    # A reader that learned from the rows is not as sure as it is right: canaries bend what it says.
    bending = None if told.held_out else held_out
    if told.held_out and not asked:
        doubted = handed_on(doubted, everyone[rest], planned.taught.labels[rest])
    return odds_curve(everyone[rest], doubted, bending, max(share.value, LEAST), classes).at(place)


def _fixed(tried: Tried, settings: AuditSettings) -> dict[str, int]:
    """Choices that others make without looking: the paper's, the default, the loss."""
    paper = "datainf" if "datainf" in settings.estimators else settings.estimators[0]
    first = settings.estimators[0]
    wanted = {
        f"{paper}, all, vote 30%": tried.find(estimator=paper, layers="all", aggregate="vote", k=0.3, only="all"),
        f"{paper}, all, mean": tried.find(estimator=paper, layers="all", aggregate="mean", only="all"),
        f"{first}, all, rank": tried.find(estimator=first, layers="all", aggregate="rank", only="all"),
        LOSS: tried.find(kind="baseline", estimator=LOSS),
    }
    return {name: at for name, at in wanted.items() if at is not None}


def _chosen_by_user(settings: AuditSettings) -> bool:
    fields = AuditSettings.model_fields
    return any(getattr(settings, name) != fields[name].default for name in _CHOOSING)


def _as_asked(
    influence: xr.Dataset, settings: AuditSettings, rest: np.ndarray, reporter: Reporter | None
) -> np.ndarray:
    covered = influence["covered"].sel(estimator=settings.estimators[0]).values
    modules = deciding_modules(module_keys(influence), covered, settings.layers)
    harm = group_harm(influence, {"": modules}, settings, reporter=reporter)[""]
    return standing(harm, harm[rest])


def _stability(
    influence: xr.Dataset,
    tried: Tried,
    found: Contest,
    way: str,
    flagged: Int[np.ndarray, " flagged"],
    settings: AuditSettings,
) -> np.ndarray | None:
    """How often resamples of the queries flag each row, by the choices that decide; None where they cannot say."""
    if tried.scorings is None or not len(flagged):
        return None
    scorings = [tried.scorings[i] for i in found.averaged.tolist() if i < len(tried.scorings)]
    own = user_rows(influence)
    labels, cut = own["sample_label"].values, min(len(flagged) / own.sizes["sample"], 0.999)
    if way == ASKED:
        scorings = [Scoring(settings.estimators[0], settings.layers, settings.aggregate, settings.k, settings.counted)]
        bootstrap = Bootstrap(_RESAMPLES, seed=settings.seed, cut=cut)
    else:
        cuts = np.bincount(labels[flagged], minlength=labels.max() + 1) / np.maximum(np.bincount(labels), 1)
        bootstrap = Bootstrap(_RESAMPLES, seed=settings.seed, cut=cut, labels=labels, cuts=cuts)
    if not scorings:
        return None
    scored = Scorer(own, memory=memory_bytes(settings.memory)).scores(scorings, bootstrap)
    shares = [s.stability.flagged for s in scored if s.stability is not None]
    result: np.ndarray = np.mean(shares, axis=0)
    return result


def _result(
    tried: Tried,
    found: Contest,
    way: str,
    reader: Opinion,
    share: Share,
    advice: Suggestion,
    shift: float,
    canaries: int,
) -> CalibrationResult:
    ranking = found.ranking

    def told(i: int) -> ChoiceResult:
        return ChoiceResult(
            name=tried.choices[i].name,
            auroc=float(ranking.auroc[i]),
            low=float(ranking.low[i]),
            high=float(ranking.high[i]),
        )

    entries = tuple(
        EntryResult(
            name=e.name,
            auroc=e.auroc[0],
            low=e.auroc[1],
            high=e.auroc[2],
            ahead=e.ahead[0],
            ahead_low=e.ahead[1],
            ahead_high=e.ahead[2],
        )
        for e in found.entries
    )
    precision, low, high = advice.precision
    likely, likely_low, likely_high = advice.removed_precision
    return CalibrationResult(
        canaries=canaries,
        way=way,
        choices=len(tried.choices),
        best=tuple(told(int(i)) for i in ranking.order[:_SHOWN]),
        single=told(ranking.chosen),
        entries=entries,
        share=share.value,
        share_low=share.low,
        share_high=share.high,
        gathering=share.gathering,
        memory=share.memory,
        reader=reader.name,
        separation=share.reading.separation,
        power=reader.power,
        weights=dict(zip((AVERAGE, PROBE), found.weights.tolist(), strict=True)),
        suggested=advice.rows,
        precision=precision,
        precision_low=low,
        precision_high=high,
        recall=advice.recall,
        removed=advice.removed,
        removed_precision=likely,
        removed_precision_low=likely_low,
        removed_precision_high=likely_high,
        refused=advice.refused,
        canary_shift=shift,
    )


def _choice_table(tried: Tried, found: Contest) -> pd.DataFrame:
    ranking = found.ranking
    table = pd.DataFrame([choice.row() for choice in tried.choices])
    table["auroc"], table["low"], table["high"] = ranking.auroc, ranking.low, ranking.high
    table["tied"] = np.isin(np.arange(len(table)), ranking.tied)
    return table.iloc[ranking.order].reset_index(drop=True)


def _cut_table(cuts: Cuts, n: int) -> pd.DataFrame:
    table = pd.DataFrame({name: values for name, values in vars(cuts).items() if name != "likely"})
    table.insert(0, "rows", np.arange(n + 1))
    return table
