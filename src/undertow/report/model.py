"""What a report shows, as plain values: the pipeline fills them, ``undertow.report.render`` draws them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

LABEL_COLUMNS = ("label", "predicted_label", "suggested_label")
NUMBER_COLUMNS = ("row", "predicted_probability", "loss", "harm", "rank")
HARM_COLUMNS = ("text", "flagged", "removed", *LABEL_COLUMNS, *NUMBER_COLUMNS)
"""The columns of every harm table; ``text_pair``, ``planted`` and ``original_label`` may be there too."""

GROUP_PREFIX = "harm_"
"""A column with this prefix holds the harm of one layer group."""


@dataclass(frozen=True)
class Arm:
    """One retraining arm: which rows it trained on and how accurate the model became.

    Attributes:
        name: "as given", "dropped", "relabelled", "down-weighted", "random removal", "oracle", "oracle labels".
        rows: training rows used.
        accuracy: share of rows answered correctly, 0 to 1.
        low: lower end of the 95% interval of the accuracy.
        high: upper end of the 95% interval of the accuracy.
        difference: accuracy minus that of "as given" on the same rows.
        difference_low: lower end of its paired 95% interval.
        difference_high: upper end.
        changed: rows that were left out, relabelled or weighed less.
        note: a remark, printed beside the arm.
    """

    name: str
    rows: int
    accuracy: float
    low: float
    high: float
    difference: float = 0.0
    difference_low: float = 0.0
    difference_high: float = 0.0
    changed: int = 0
    note: str = ""


@dataclass(frozen=True)
class NDRCurve:
    """Noise detection rate of one ordering of the training rows.

    Attributes:
        name: "audit", "loss", "random", "ideal", or the name of an estimator.
        share: share of the rows inspected, 0 to 1, shape [m].
        found: share of the planted rows found by then, shape [m].
        ndr10: ``found`` at 10% inspected.
        ndr20: ``found`` at 20% inspected.
        ndr30: ``found`` at 30% inspected.
        auc: area under the curve.
    """

    name: str
    share: Float[np.ndarray, " m"]
    found: Float[np.ndarray, " m"]
    ndr10: float
    ndr20: float
    ndr30: float
    auc: float


@dataclass(frozen=True)
class Stage:
    """What one stage of the run cost."""

    name: str
    seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Judged:
    """A score, and how control rows judge it: AUROCs with 95% intervals, None where there are no such controls.

    Attributes:
        name: of the score.
        canaries: AUROC of canaries against the training rows.
        anchors: AUROC of the training rows against anchors.
        used: whether this score is the harm.
    """

    name: str
    canaries: tuple[float, float, float] | None
    anchors: tuple[float, float, float] | None
    used: bool = False


@dataclass(frozen=True)
class ControlsView:
    """What control rows say.

    Attributes:
        anchors: trusted rows that were trained on.
        canaries: rows that were given a wrong label.
        judged: the scores, best first.
        remarks: what a reader should know, a sentence each.
        sources: name, rows, share of wrong labels and its 95% interval of each source, the worst first.
        transitions: given label, likely true class, and share of all rows; the commonest first.
    """

    anchors: int
    canaries: int
    judged: tuple[Judged, ...]
    remarks: tuple[str, ...] = ()
    sources: tuple[tuple[str, int, float, float, float], ...] = ()
    transitions: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything one report shows.

    Attributes:
        model: name or folder of the audited model.
        training_source: where the training rows came from.
        classes: class names.
        created: ISO date and time.
        verdict: one sentence.
        harm: the harm table, one line per training row, with ``HARM_COLUMNS``.
        estimator: how influence was estimated.
        layers: which layer groups were used.
        aggregation: how influences became one harm.
        cut: share of the rows that is flagged, 0 to 1.
        curves: NDR curves; empty where the truth is unknown.
        arms: retraining arms; empty where nothing was retrained.
        remedy: name of the arm that won, or of the action that is advised.
        evaluated_on: a sentence that says which split the arms were compared on.
        notes: warnings and remarks.
        stages: what the run cost.
        configuration: option to value.
        versions: library to version.
        fingerprints: data set to fingerprint.
        next_steps: commands to run next.
        controls: what control rows said; None where there were none.
    """

    model: str
    training_source: str
    classes: tuple[str, ...]
    created: str
    verdict: str
    harm: pd.DataFrame
    estimator: str
    layers: str
    aggregation: str
    cut: float
    curves: tuple[NDRCurve, ...] = ()
    arms: tuple[Arm, ...] = ()
    remedy: str = ""
    evaluated_on: str = ""
    notes: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    configuration: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    next_steps: tuple[str, ...] = ()
    controls: ControlsView | None = None

    @property
    def truth_known(self) -> bool:
        """Whether the harm table says which rows carry planted noise."""
        return "planted" in self.harm.columns and bool(self.harm["planted"].any())

    @property
    def groups(self) -> list[str]:
        """Layer groups with a harm column, in the order of the columns."""
        columns = [str(column) for column in self.harm.columns]
        return [name.removeprefix(GROUP_PREFIX) for name in columns if name.startswith(GROUP_PREFIX)]
