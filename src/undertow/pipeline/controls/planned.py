"""Planning the controls of an audit: which rows are trained on, and which the influence stage looks at."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Int8

from undertow.controls.canaries import FEWEST, MOST, Canaries, canary_count, draw_canaries
from undertow.data import Samples, joined_samples
from undertow.influence.store import ANCHOR, CANARY, ROW
from undertow.pipeline.controls.probes import Probed, probe_step
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start
from undertow.progress import Reporter

PROBES = "probes.npz"
# Fewer trusted rows than these, in all roles together, calibrate no probe and make no p-values.
FEWEST_TRUSTED = 30


@dataclass(frozen=True)
class Planned:
    """The controls of an audit.

    Attributes:
        train: the user's rows.
        canaries: which of them get which wrong label; empty where the model is not trained here.
        anchors: trusted rows that are trained on; None where there are none.
        probed: what probes say of all rows before fine-tuning.
        queries: positions of the queries among the trusted rows.
        good: which trusted rows stand for good training rows: all, but for those drawn from the training data whose
            old label was wrong.
    """

    train: Samples
    canaries: Canaries
    anchors: Samples | None
    probed: Probed
    queries: slice
    good: Bool[np.ndarray, " trusted"]

    @cached_property
    def taught(self) -> Samples:
        """What the model is trained on: the user's rows, wrong labels at the canaries, and behind them the anchors."""
        rows = self.train.with_labels(self.canaries.taught(self.train.labels))
        return rows if self.anchors is None else joined_samples(rows, self.anchors)

    @cached_property
    def audited(self) -> Samples:
        """What the influence stage looks at: the user's rows as they are, canaries with wrong labels, and anchors."""
        spies = self.train.select(self.canaries.positions).with_labels(self.canaries.labels)
        return joined_samples(self.train, spies, *([] if self.anchors is None else [self.anchors]))

    @cached_property
    def control(self) -> Int8[np.ndarray, " audited"]:
        """Which of the audited rows are controls."""
        anchors = 0 if self.anchors is None else len(self.anchors)
        counts = [len(self.train), len(self.canaries), anchors]
        return np.repeat(np.array([ROW, CANARY, ANCHOR], dtype=np.int8), counts)

    @cached_property
    def rest(self) -> Int[np.ndarray, " rest"]:
        """Positions of the user's rows that are no canaries, ascending."""
        return np.setdiff1d(np.arange(len(self.train)), self.canaries.positions)


def check_plannable(inputs: Inputs, settings: AuditSettings) -> str:
    """Why an audit has no controls; empty where it has some.

    Args:
        inputs: the data in its roles.
        settings: whether controls are wanted.
    """
    rows, trusted = len(inputs.train), sum(map(len, _trusted(inputs)))
    if not settings.calibrate:
        return "Not calibrated: --no-calibrate leaves out control rows, so no share and no precision is stated."
    if len(np.unique(inputs.train.labels)) < 2:
        return "Not calibrated: all rows have one label, so no other label can be the right one."
    if not canary_count(rows, settings.canaries):
        return (
            f"Not calibrated: {rows:,} rows cannot spare {FEWEST} canaries, which are to be at most {MOST:.0%} of "
            f"them. Calibration needs {FEWEST / MOST:.0f} rows or more."
        )
    if trusted < FEWEST_TRUSTED:
        return (
            f"Not calibrated: {trusted} trusted rows are too few to compare with. Calibration needs {FEWEST_TRUSTED} "
            "or more; 300 are better."
        )
    return ""


def plan_controls(
    run: RunFolder, start: Start, inputs: Inputs, settings: AuditSettings, show: Reporter, *, trained_here: bool
) -> Planned:
    """Fit the probes, or read what they said back, and draw the canaries.

    Args:
        run: keeps what the probes say.
        start: makes the model before fine-tuning.
        inputs: the data in its roles.
        settings: share of canaries, seed.
        show: shows progress.
        trained_here: whether the audit trains the model; else there are no canaries and no anchors.
    """
    file = run.path / PROBES
    if not run.done("probes"):
        with run.stage("probes"):
            probe_step(start, inputs.train, _trusted(inputs), _good(inputs), settings, show, drawn=_drawn(inputs)).save(
                file
            )
    return planned_controls(Probed.load(file), inputs, settings, trained_here=trained_here)


def planned_controls(probed: Probed, inputs: Inputs, settings: AuditSettings, *, trained_here: bool) -> Planned:
    """The controls that follow from what the probes say; the same at every call."""
    labels = inputs.train.labels
    good = _good(inputs)
    first = 0 if inputs.anchors is None else len(inputs.anchors)
    queries = slice(first, first + len(inputs.queries))
    if not trained_here:
        empty = np.empty(0, dtype=np.int64)
        return Planned(inputs.train, Canaries(empty, empty), None, probed, queries, good)
    # Another stream than that of planted noise, which is drawn by the same seed.
    seed = int(np.random.SeedSequence((settings.seed, 1)).generate_state(1)[0])
    posterior = probed.posterior(probed.rows, labels)
    count = canary_count(len(labels), settings.canaries)
    canaries = draw_canaries(probed.rows, posterior, labels, count, seed=seed)
    return Planned(inputs.train, canaries, inputs.anchors, probed, queries, good)


def taught(inputs: Inputs, planned: Planned | None) -> Inputs:
    """The inputs as the model is trained on them."""
    return inputs if planned is None else replace(inputs, train=planned.taught)


def _good(inputs: Inputs) -> Bool[np.ndarray, " trusted"]:
    """Which trusted rows stand for good training rows."""
    wrong = frozenset() if inputs.again is None else inputs.again.wrong
    return np.array([row not in wrong for part in _trusted(inputs) for row in part.rows.tolist()])


def _drawn(inputs: Inputs) -> bool:
    """Whether all trusted rows are a random sample of the training rows."""
    return inputs.again is not None and inputs.again.alone and inputs.queries.source == inputs.selection.source


def _trusted(inputs: Inputs) -> tuple[Samples, ...]:
    """Trusted rows of all roles, anchors first."""
    return (*([] if inputs.anchors is None else [inputs.anchors]), inputs.queries, inputs.selection)
