"""What an audit found, as plain values that go into ``run.json`` and the report."""

from pydantic import BaseModel, ConfigDict

# The way to a harm that a user set, of `CalibrationResult.way`.
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

    ``difference`` is its accuracy minus that of "as given", on the same rows.
    """

    name: str
    rows: int
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


class ChoiceResult(_Frozen):
    """A choice of estimator, layers and aggregation: how it separates canaries from the rest, with a 95% interval."""

    name: str
    auroc: float
    low: float
    high: float


class EntryResult(_Frozen):
    """A way to make one harm, judged by canaries that did not choose it; ``ahead`` is its gain over the average."""

    name: str
    auroc: float
    low: float
    high: float
    ahead: float
    ahead_low: float
    ahead_high: float


class CalibrationResult(_Frozen):
    """What canaries said.

    ``way`` is the harm that is used: a learned one, the average of the best few choices, the single best, or as asked.
    ``best`` are the best choices, ``single`` the simplest that cannot be told from the best, ``entries`` the ways.
    ``share`` is the share of wrong labels, ``gathering`` how probable it is that they gather in texts that are hard to
    tell; ``suggested`` the number of rows to flag, ``precision`` and ``recall`` what is expected of them, ``removed``
    how many of these are worth removing unseen and ``removed_precision`` what is expected of those, ``refused`` why
    none is flagged. ``canary_shift`` is the AUROC of the canaries under the user's label against the rest: 0.5 where
    being trained on another label did not move their harm, which is corrected. ``reader`` says what was asked how many
    labels are wrong, ``separation`` how well it tells the classes of trusted rows apart, ``power`` that its log-odds of
    the training rows were taken to: below 1 where probes agree less on them than on trusted rows. ``weights`` say what
    the learned way is made of.
    """

    canaries: int
    way: str
    choices: int
    best: tuple[ChoiceResult, ...]
    single: ChoiceResult
    entries: tuple[EntryResult, ...]
    share: float
    share_low: float
    share_high: float
    gathering: float | None
    memory: float
    reader: str
    separation: float
    power: float
    weights: dict[str, float]
    suggested: int
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    removed: int
    removed_precision: float
    removed_precision_low: float
    removed_precision_high: float
    refused: str
    canary_shift: float

    @property
    def sentence(self) -> str:
        """The share and the suggested cut in words."""
        span = f"{self.share_low:.0%} to {self.share_high:.0%}"
        if self.refused:
            return f"Nothing is suggested to be flagged: {self.refused}."
        promise = f"{self.precision:.0%} of them ({self.precision_low:.0%} to {self.precision_high:.0%})"
        where = " They seem to gather in texts that are hard to tell." if (self.gathering or 0) > 0.5 else ""
        told = (
            f"About {self.share:.0%} of the labels look wrong ({span}, 95%).{where} The suggested cut is "
            f"{self.suggested:,} rows to look through: {promise} are expected to be wrong, and to be {self.recall:.0%} "
            "of all that are."
        )
        if self.removed == self.suggested:
            return told
        if not self.removed:
            return f"{told} None of them is more likely wrong than right."
        ends = f"{self.removed_precision_low:.0%} to {self.removed_precision_high:.0%}"
        likely = f"The first {self.removed:,} are more likely wrong than right"
        return f"{told} {likely}: {self.removed_precision:.0%} of these ({ends}) are expected to be wrong."


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
    calibration: CalibrationResult | None = None
    evaluated_on: str
    detected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    planted: int = 0
    detections: tuple[Detection, ...] = ()
    group_detections: tuple[Detection, ...] = ()
    arms: tuple[ArmResult, ...] = ()

    def arm(self, name: str) -> ArmResult | None:
        """The arm of this name, if it was run."""
        return next((a for a in self.arms if a.name == name), None)

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two that claim no more than was measured."""
        left = f", and {self.removed:,} of them are left out of the cleaned set" if self.removed < self.flagged else ""
        said = [f"{self.flagged:,} of {self.training_rows:,} rows are flagged as most harmful{left}."]
        if self.calibration is not None:
            said.append(self.calibration.sentence)
        audit = next((d for d in self.detections if d.name == "audit"), None)
        if audit is not None:
            said.append(
                f"Among the 30% most harmful rows are {audit.ndr30:.0%} of the {self.planted:,} planted flips "
                "(random order: 30%)."
            )
        cleaned, given = self.arm("cleaned"), self.arm("as given")
        if cleaned and given:
            said.append(_compared(given, cleaned, self.arm("oracle"), self.removed))
        return " ".join(said)


def _compared(given: ArmResult, cleaned: ArmResult, oracle: ArmResult | None, removed: int) -> str:
    what = f"Removing {'this row' if removed == 1 else f'these {removed:,} rows'}"
    change = f"accuracy {given.accuracy:.1%} → {cleaned.accuracy:.1%}"
    interval = f"{100 * cleaned.difference_low:+.1f} to {100 * cleaned.difference_high:+.1f} points"
    bound = f" (oracle {oracle.accuracy:.1%})" if oracle else ""
    if cleaned.difference_low > 0:
        return f"{what} helped: {change}{bound}, a change of {interval} (95%)."
    if cleaned.difference_high < 0:
        return f"{what} hurt: {change}{bound}, a change of {interval} (95%). Keep the rows."
    return f"{what} made no difference that these rows can show: {change}{bound}, {interval} (95%)."
