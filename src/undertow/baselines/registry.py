"""The baselines by name. Each gives harm [n] in float64: higher = worse.

A baseline is a pure function whose arguments are named like the fields of `Evidence` that it reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from undertow.baselines import confident, outlier, repsim
from undertow.baselines.confident import confident_learning_harm
from undertow.baselines.dawid_skene import dawid_skene_harm
from undertow.baselines.dynamics import aum_harm, forgetting_harm
from undertow.baselines.evidence import Evidence
from undertow.baselines.knn import knn_harm
from undertow.baselines.names import BASELINE_NEEDS, BASELINE_SUMMARIES, check_baselines
from undertow.baselines.outlier import outlier_harm
from undertow.baselines.predictions import entropy_harm, margin_harm
from undertow.baselines.repsim import repsim_harm, repsim_plain_harm
from undertow.baselines.simple import loss_harm, random_harm
from undertow.errors import ConfigError


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        name: what users call it.
        score: the function.
        reads: the fields of `Evidence` that the function takes, named like its arguments.
        label_aware: whether the label of a sample plays a part in its own harm.
        check: refuses labels of samples and of queries that the function cannot do with.
    """

    name: str
    score: Callable[..., np.ndarray]
    reads: tuple[str, ...]
    label_aware: bool = True
    check: Callable[[np.ndarray, np.ndarray], None] | None = None

    @property
    def summary(self) -> str:
        """One line of what it is."""
        return BASELINE_SUMMARIES[self.name]

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be collected for it: predictions, dynamics, hidden, gradients, or nothing."""
        return BASELINE_NEEDS[self.name]


_QUERIES = ("states", "labels", "query_states", "query_labels")
_GRADIENTS = ("gradients", "labels", "query_gradients", "query_labels")

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("loss", loss_harm, ("loss",)),
        Baseline("margin", margin_harm, ("probabilities", "labels")),
        Baseline("entropy", entropy_harm, ("probabilities",), label_aware=False),
        Baseline("aum", aum_harm, ("margins",)),
        Baseline("forgetting", forgetting_harm, ("margins",)),
        Baseline("knn", knn_harm, ("states", "labels")),
        Baseline("repsim", repsim_harm, _QUERIES, check=repsim.check_queries),
        Baseline("repsim-plain", repsim_plain_harm, ("states", "query_states"), label_aware=False),
        Baseline("outlier", outlier_harm, _GRADIENTS, check=outlier.check_queries),
        Baseline(
            "confident-learning",
            confident_learning_harm,
            ("states", "labels", "seed"),
            check=lambda labels, _: confident.check_classes(labels),
        ),
        Baseline("dawid-skene", dawid_skene_harm, ("texts", "annotators", "labels")),
        Baseline("random", random_harm, ("samples", "seed"), label_aware=False),
    )
}


def check_labels(names: Sequence[str], labels: Int[np.ndarray, " n"], query_labels: Int[np.ndarray, " q"]) -> None:
    """Refuse what some baselines cannot do with, before anything is collected for them.

    Raises:
        DataError: the labels do not allow one of them, e.g. a class without queries.
    """
    for check in (BASELINES[name].check for name in names):
        if check is not None:
            check(labels, query_labels)


def baseline_harm(name: str, evidence: Evidence) -> Float[np.ndarray, " n"]:
    """Harm of each sample by one baseline; the same evidence, its seed included, gives the same harm.

    Raises:
        ConfigError: the name is not known, or the evidence lacks what this baseline reads.
        DataError: the data do not allow this baseline, e.g. a class without queries.
    """
    check_baselines([name])
    baseline = BASELINES[name]
    values = {field: getattr(evidence, field) for field in baseline.reads}
    missing = [field for field, value in values.items() if value is None]
    if missing:
        raise ConfigError(
            f"The baseline {name} reads {', '.join(baseline.reads)}; the evidence lacks {', '.join(missing)}. "
            "Collect these too, or leave this baseline out."
        )
    return baseline.score(**values)
