"""The scores that controls judge: those of the fine-tuned model, the probes, and the stack of both."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from undertow.baselines.simple import loss_harm
from undertow.controls.conformal import Null
from undertow.controls.selection import Evidence, better_single, evidence
from undertow.controls.shift import effective_number
from undertow.controls.stacking import anchored_null, normal_scores, percentile, percentile_within, stacked
from undertow.controls.transitions import wrong_log_odds
from undertow.influence.store import ANCHOR, CANARY, ROW, deciding_modules, module_keys, standard_groups
from undertow.pipeline.controls.planned import Planned
from undertow.pipeline.harm import group_harm
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter

STACK, PROBE, LOSS = "stack", "probe", "loss"
# Layer groups of the first estimator that enter the stack, beside the loss.
STACKED_GROUPS = ("all", "head")
# Rows by the probe's score that lend their trained scores to a canary's own row, which was trained on another label.
_DONORS = 10


@dataclass(frozen=True)
class Scores:
    """One score of rows, canaries, and rows that are known to be good.

    Attributes:
        name: stack, probe, as asked, or the name of a single score.
        rows: of each of the user's rows; higher is worse.
        canaries: of each canary with its wrong label.
        null: of good rows.
    """

    name: str
    rows: Float[np.ndarray, " row"]
    canaries: Float[np.ndarray, " canary"]
    null: Null


@dataclass(frozen=True)
class Judged:
    """A score and what controls say of it."""

    name: str
    evidence: Evidence


def candidate_harms(
    influence: xr.Dataset, settings: AuditSettings, reporter: Reporter | None = None
) -> dict[str, Float[np.ndarray, " audited"]]:
    """Harm of all audited rows by each estimator and layer group, the loss, and the baselines that were computed."""
    keys = module_keys(influence)
    found: dict[str, np.ndarray] = {}
    for estimator in influence["estimator"].values.tolist():
        groups = standard_groups(keys, influence["covered"].sel(estimator=estimator).values)
        chosen = {name: list(modules) for name, modules in groups.items()}
        harms = group_harm(influence, chosen, settings, estimator=estimator, reporter=reporter)
        found |= {f"{estimator}, {name}": harm for name, harm in harms.items()}
    found[LOSS] = loss_harm(influence["sample_loss"].values)
    if "baseline_harm" in influence:
        for name in influence["baseline"].values.tolist():
            found.setdefault(name, influence["baseline_harm"].sel(baseline=name).values)
    return {name: np.asarray(harm, dtype=np.float64) for name, harm in found.items()}


class ScoreSheet:
    """Normal scores of all audited rows by the probes and by every candidate, on one scale."""

    def __init__(self, influence: xr.Dataset, planned: Planned, harms: dict[str, np.ndarray]) -> None:
        """``harms`` are those of `candidate_harms`, in the order of the audited rows."""
        control, labels = influence["control"].values, influence["sample_label"].values
        self.planned = planned
        self.row, self.canary, anchors = (np.flatnonzero(control == kind) for kind in (ROW, CANARY, ANCHOR))
        self.anchor = anchors[planned.good[: len(anchors)]]
        self._labels, self._reference = labels, control != CANARY
        self._reference[planned.canaries.positions] = False
        self._probe(labels)
        self.trained: dict[str, np.ndarray] = {}
        for name, harm in harms.items():
            self.add(name, harm)

    def add(self, name: str, harm: Float[np.ndarray, " audited"], *, within_labels: bool = True) -> None:
        """Put another score of the fine-tuned model on the sheet, as percentile within its label or among all rows."""
        labels = self._labels if within_labels else np.zeros_like(self._labels)
        self.trained[name] = normal_scores(percentile_within(harm, labels, self._reference))
        self._lend(self.trained[name])

    def _probe(self, labels: np.ndarray) -> None:
        """Log-odds by the probes that each label is wrong, as normal scores among the user's rows."""
        probed, spies = self.planned.probed, self.planned.canaries
        rows = self._odds(probed.rows, labels[self.row])
        canaries = self._odds(probed.rows[spies.positions], spies.labels)
        trusted = self._odds(probed.trusted, probed.labels)[self.planned.good]
        self.probe, self.probe_canaries, self.probe_trusted = (
            normal_scores(percentile(values, rows)) for values in (rows, canaries, trusted)
        )

    def _odds(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return wrong_log_odds(self.planned.probed.posterior(probabilities, labels), labels)

    def _lend(self, values: Float[np.ndarray, " audited"]) -> None:
        """Replace what a training on another label made of a canary's own row by the mean of rows like it."""
        twins, rest = self.planned.canaries.positions, self.planned.rest
        if len(twins):
            apart = np.abs(self.probe[twins][:, None] - self.probe[rest])
            nearest = np.argsort(apart, axis=1, kind="stable")[:, :_DONORS]
            values[twins] = values[rest][nearest].mean(axis=1)

    @property
    def weights(self) -> Float[np.ndarray, " anchor"]:
        """Density ratios of the anchors, which are the first of the good trusted rows."""
        return self._trusted_weights[: len(self.anchor)]

    @property
    def _trusted_weights(self) -> Float[np.ndarray, " good"]:
        found: np.ndarray = self.planned.probed.shift.trusted[self.planned.good]
        return found

    def stack(self, estimator: str, probe_part: float) -> Scores:
        """The stack of probe and trained scores; the probe alone where the model was not trained on anchors."""
        weights = self._trusted_weights
        anchors = np.arange(len(self.anchor))
        if not len(anchors):
            null = anchored_null(self.probe_trusted, weights, anchors, None, probe_part)
            return Scores(PROBE, self.probe, self.probe_canaries, null)
        names = [LOSS, *(f"{estimator}, {group}" for group in STACKED_GROUPS)]
        trained = np.mean([self.trained[name] for name in names if name in self.trained], axis=0)
        null = anchored_null(self.probe_trusted, weights, anchors, trained[self.anchor], probe_part)
        return Scores(
            STACK,
            stacked(self.probe, trained[self.row], probe_part),
            stacked(self.probe_canaries, trained[self.canary], probe_part),
            null,
        )

    def single(self, name: str, values: Float[np.ndarray, " audited"]) -> Scores:
        """One trained score alone, held against the anchors."""
        null = Null(values[self.anchor], self.weights, effective_number(self.weights))
        return Scores(name, values[self.row], values[self.canary], null)

    def judged(self, stack: Scores) -> list[Judged]:
        """What controls say of each score, the best first."""
        anchors = self.probe_trusted[: len(self.anchor)]
        rest = self.planned.rest
        own = stacked_anchors(stack, len(self.anchor))
        found = [
            Judged(stack.name, evidence(stack.rows[rest], stack.canaries, own, self.weights)),
            Judged(PROBE, evidence(self.probe[rest], self.probe_canaries, anchors, self.weights)),
        ]
        for name, values in self.trained.items():
            seen = evidence(values[rest], values[self.canary], values[self.anchor], self.weights)
            found.append(Judged(name, seen))
        unique = {judged.name: judged for judged in reversed(found)}
        return sorted(unique.values(), key=lambda judged: -np.nan_to_num(judged.evidence.combined))

    def choose(self, stack: Scores, seed: int) -> Scores:
        """The stack, or the single score that anchors say is significantly better."""
        if not len(self.anchor):
            return stack
        rest, names = self.planned.rest, list(self.trained)
        chosen = better_single(
            stack.rows[rest],
            stacked_anchors(stack, len(self.anchor)),
            np.stack([self.trained[name][rest] for name in names]),
            np.stack([self.trained[name][self.anchor] for name in names]),
            self.weights,
            seed=seed,
        )
        return stack if chosen is None else self.single(names[chosen], self.trained[names[chosen]])


def stacked_anchors(stack: Scores, anchors: int) -> Float[np.ndarray, " anchor"]:
    """Scores of the anchors themselves, which stand before those of other trusted rows."""
    return stack.null.scores[:anchors]


def asked_harm(
    influence: xr.Dataset, settings: AuditSettings, reporter: Reporter | None = None
) -> Float[np.ndarray, " audited"]:
    """The harm that the user chose, of all audited rows."""
    covered = influence["covered"].sel(estimator=settings.estimators[0]).values
    modules = deciding_modules(module_keys(influence), covered, settings.layers)
    return group_harm(influence, {"": modules}, settings, reporter=reporter)[""].astype(np.float64)
