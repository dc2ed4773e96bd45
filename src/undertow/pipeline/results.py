"""What an audit found, as plain values that go into ``run.json`` and the report."""

from pydantic import BaseModel, ConfigDict

# The harm that a user chose, of `ControlsResult.harm`.
ASKED = "as asked"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Detection(_Frozen):
    """Noise detection of one harm score against planted noise."""

    name: str
    ndr10: float
    ndr20: float
    ndr30: float
    auc: float


class ArmResult(_Frozen):
    """One model of the comparison: what it was trained on, and how accurate it is, with 95% intervals.

    ``changed`` rows were left out, relabelled or weighed less. ``difference`` is its accuracy minus that of "as given",
    on the same rows.
    """

    name: str
    rows: int
    changed: int = 0
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


class JudgedResult(_Frozen):
    """A score and what controls say of it: AUROCs with their standard errors (see `undertow.controls.selection`)."""

    name: str
    canaries: float | None
    canaries_error: float | None
    anchors: float | None
    anchors_error: float | None
    combined: float | None


class TransitionResult(_Frozen):
    """Rows of one given label whose true class is probably another, as a share of all rows."""

    given: str
    true: str
    share: float


class SourceResult(_Frozen):
    """How many labels of a source are wrong, with the 95% credible interval."""

    name: str
    rows: int
    rate: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """The rate in words."""
        span = f"{self.low:.0%} to {self.high:.0%}"
        return (
            f"The worst source is {self.name!r}: about {self.rate:.0%} of its {self.rows:,} labels are wrong ({span})."
        )


class ControlsResult(_Frozen):
    """What control rows say.

    ``harm`` is the harm that is used: the stack of probes and fine-tuned model, the probes alone, a single score, or as
    asked. ``trusted`` rows stand for ``effective`` rows of the training data, where texts differ (``shift_auroc`` of a
    two-sample test with ``shift_p_value``); ``anchors`` of them were trained on. ``share_least`` is a lower bound of
    the share of wrong labels (95% sure), ``share_unseen`` the share that could go unnoticed, ``share_like_canaries``
    the share if errors are like canaries, from ``share_low`` to ``share_high`` (95%). ``precision`` is the expected
    share of wrong labels among the flagged rows, ``sure_precision`` its lower bound (90% sure over the draw of the
    controls), the same of the ``removed`` rows. ``power`` is the share of the canaries at or above the cut.
    ``refused`` says why no row is flagged. ``probe_part`` is the weight of the probes in the stack.
    """

    harm: str
    canaries: int
    anchors: int
    trusted: int
    effective: float
    shift_auroc: float
    shift_p_value: float
    probe_part: float
    share_least: float
    share_unseen: float | None
    share_like_canaries: float | None
    share_low: float | None
    share_high: float | None
    judged: tuple[JudgedResult, ...]
    transitions: tuple[TransitionResult, ...]
    flagged: int = 0
    precision: float = 0.0
    sure_precision: float = 0.0
    removed: int = 0
    removed_precision: float = 0.0
    removed_sure_precision: float = 0.0
    power: float | None = None
    refused: str = ""

    @property
    def differs(self) -> bool:
        """Whether trusted texts differ from training texts more than chance explains."""
        return self.shift_p_value < 0.01

    def headline(self, labelled_again: tuple[float, float, float] | None = None) -> str:
        """The share of wrong labels, and how many rows to look through, in two short sentences.

        Args:
            labelled_again: share and 95% interval by a random sample that was labelled again, where there is one.
        """
        share = self._share_sentence
        if labelled_again is not None:
            value, low, high = labelled_again
            share = f"{_percent(value)} of the labels are wrong ({low:.0%} to {high:.0%}, 95%), by careful labels."
        return f"{share} {self._cut_sentence}"

    @property
    def _share_sentence(self) -> str:
        if self.share_least >= 0.005:
            return f"At least {_percent(self.share_least)} of the labels are wrong (95% sure)."
        bound = ""
        if self.share_unseen is not None:
            bound = f"; a share of up to {_percent(self.share_unseen)} could go unnoticed"
        return f"No share of wrong labels is certain with {self.trusted:,} trusted rows{bound}."

    @property
    def _cut_sentence(self) -> str:
        if not self.flagged:
            return f"No row is flagged: {self.refused}." if self.refused else "No row is flagged."
        sure = f", at least {_percent(self.sure_precision)} (90% sure)" if self.sure_precision >= 0.05 else ""
        return f"Look through {self.flagged:,} rows: about {_percent(self.precision)} of them are wrong{sure}."

    @property
    def details(self) -> tuple[str, ...]:
        """What else a reader should know, a sentence each."""
        found = []
        if self.removed and self.removed < self.flagged:
            found.append(
                f"The first {self.removed:,} can be acted on unseen: about {_percent(self.removed_precision)} of them "
                "are wrong."
            )
        if self.share_like_canaries is not None and self.share_low is not None and self.share_high is not None:
            span = f"{_percent(self.share_low)} to {_percent(self.share_high)}"
            found.append(f"If errors are like canaries, {_percent(self.share_like_canaries)} are wrong ({span}, 95%).")
        if self.power is not None and self.flagged:
            found.append(f"The flagged rows hold {_percent(self.power)} of errors of that kind.")
        if self.differs:
            found.append(
                f"Trusted texts differ from training texts (AUROC {self.shift_auroc:.2f}), so {self.trusted:,} trusted "
                f"rows count as {self.effective:.0f}."
            )
        if not self.anchors:
            found.append("No trusted row was trained on: all figures are of probes that did not learn from the rows.")
        return tuple(found)


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"


class Results(_Frozen):
    """Everything an audit found but the tables."""

    model: str
    training_source: str
    classes: tuple[str, ...]
    training_rows: int
    selection_rows: int
    query_rows: int
    modules: int
    parameters: int
    query_accuracy: float
    flagged: int
    removed: int
    cut: float = 0.3
    controls: ControlsResult | None = None
    evaluated_on: str
    detected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    planted: int = 0
    detections: tuple[Detection, ...] = ()
    group_detections: tuple[Detection, ...] = ()
    labelled_again: tuple[float, float, float] | None = None
    sources: tuple[SourceResult, ...] = ()
    arms: tuple[ArmResult, ...] = ()
    remedy: str = "dropped"

    def arm(self, name: str) -> ArmResult | None:
        """The arm of this name, if it was run."""
        return next((a for a in self.arms if a.name == name), None)

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two that claim no more than was measured."""
        said = [f"{self.flagged:,} of {self.training_rows:,} rows are flagged as most harmful."]
        if self.controls is not None:
            said = [self.controls.headline(self.labelled_again)]
        audit = next((d for d in self.detections if d.name == "audit"), None)
        if audit is not None:
            said.append(
                f"Among the 30% most harmful rows are {audit.ndr30:.0%} of the {self.planted:,} planted flips "
                "(random order: 30%)."
            )
        given = self.arm("as given")
        if given:
            said.append(_compared(given, [a for a in self.arms if a.name in _DOING], self.remedy))
        elif self.controls is not None and self.flagged:
            said.append(_ADVICE[self.remedy])
        return " ".join(said)


_DOING = {"dropped": "Dropping", "relabelled": "Relabelling", "down-weighted": "Down-weighting"}
_ADVICE = {
    "dropped": "Errors are spread over the labels, so the surest rows are left out; --retrain measures what helps.",
    "relabelled": "Errors gather in some labels, so rows are relabelled, not dropped; --retrain measures what helps.",
    "as given": "No row is sure enough to act on unseen; --retrain measures what helps.",
}


def _compared(given: ArmResult, tried: list[ArmResult], remedy: str) -> str:
    """Which remedy won, and what each changed, in points of accuracy on the same rows."""
    best = next((arm for arm in tried if arm.name == remedy), None)
    if not tried:
        return f"No remedy changes the training set: accuracy {given.accuracy:.1%} as given."
    if best is None:
        changes = "; ".join(f"{_DOING[a.name].lower()} {_points(a)}" for a in tried)
        return f"No remedy helped measurably: accuracy {given.accuracy:.1%} as given; {changes}."
    span = f"{100 * best.difference_low:+.1f} to {100 * best.difference_high:+.1f} points, 95%"
    said = (
        f"{_DOING[best.name]} {best.changed:,} rows helped{' most' if len(tried) > 1 else ''}: accuracy "
        f"{given.accuracy:.1%} → {best.accuracy:.1%} ({span})."
    )
    others = "; ".join(f"{_DOING[a.name].lower()} {_points(a)}" for a in tried if a is not best)
    return f"{said} {others[0].upper()}{others[1:]}." if others else said


def _points(arm: ArmResult) -> str:
    return f"{arm.changed:,} rows {100 * arm.difference:+.1f}"
