"""What an audit found, as plain values that go into ``run.json`` and the report."""

from pydantic import BaseModel, ConfigDict


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
        said = [f"{self.flagged:,} of {self.training_rows:,} rows are flagged as most harmful."]
        audit = next((d for d in self.detections if d.name == "audit"), None)
        if audit is not None:
            said.append(
                f"Among the 30% most harmful rows are {audit.ndr30:.0%} of the {self.planted:,} planted flips "
                "(random order: 30%)."
            )
        cleaned, given = self.arm("cleaned"), self.arm("as given")
        if cleaned and given:
            said.append(_compared(given, cleaned, self.arm("oracle")))
        return " ".join(said)


def _compared(given: ArmResult, cleaned: ArmResult, oracle: ArmResult | None) -> str:
    change = f"accuracy {given.accuracy:.1%} → {cleaned.accuracy:.1%}"
    interval = f"{100 * cleaned.difference_low:+.1f} to {100 * cleaned.difference_high:+.1f} points"
    bound = f" (oracle {oracle.accuracy:.1%})" if oracle else ""
    if cleaned.difference_low > 0:
        return f"Removing them helped: {change}{bound}, a change of {interval} (95%)."
    if cleaned.difference_high < 0:
        return f"Removing them hurt: {change}{bound}, a change of {interval} (95%). Keep the rows."
    return f"Removing them made no difference that these rows can show: {change}{bound}, {interval} (95%)."
