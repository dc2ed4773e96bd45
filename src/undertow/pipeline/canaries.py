"""Planting canaries in an audit: what the model is trained on, and what the influence stage looks at."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from undertow.calibrate.canaries import FEWEST, MOST, Canaries, canary_count, draw_canaries
from undertow.calibrate.told import Told
from undertow.data import Samples
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.settings import AuditSettings


@dataclass(frozen=True)
class Planned:
    """The canaries of an audit.

    Attributes:
        canaries: which of the user's rows get which wrong label.
        taught: the user's rows as the model is trained on them.
        audited: the user's rows with the user's labels, and after them the canaries with the wrong ones, whose row ids
            are -1 minus those of their rows.
    """

    canaries: Canaries
    taught: Samples
    audited: Samples

    @cached_property
    def rest(self) -> Int[np.ndarray, " rest"]:
        """Positions of the user's rows that are no canaries, ascending."""
        return np.setdiff1d(np.arange(len(self.taught)), self.canaries.positions)

    def parted(self, told: Told) -> tuple[Told, Told]:
        """What a model says of the rest, and of the canaries with their own labels, taught other ones.

        Args:
            told: of all that is audited.
        """
        n, own = len(self.taught), told.labels[self.canaries.positions]
        canaries = Told(told.probabilities[n:], own, told.labels[n:], told.held_out)
        return told.take(self.rest), canaries


def plan_canaries(train: Samples, settings: AuditSettings, *, trained_here: bool) -> tuple[Planned | None, str]:
    """The canaries that the settings ask for, or none and why not.

    Args:
        train: the user's rows, with the labels that are to be audited.
        settings: whether to calibrate, the share of canaries, the seed.
        trained_here: whether the audit trains the model, so that it can be trained on wrong labels.
    """
    if not settings.calibrate:
        return None, ""
    if not trained_here:
        return None, (
            "Not calibrated: the model is audited as it was trained, and canaries have to be planted before training. "
            "--finetune always trains it anew."
        )
    count = canary_count(len(train), settings.canaries)
    if not count:
        return None, (
            f"Not calibrated: {len(train):,} rows cannot spare {FEWEST} canaries, which are to be at most {MOST:.0%} "
            f"of them. Calibration needs {FEWEST / MOST:.0f} rows or more."
        )
    if len(np.unique(train.labels)) < 2:
        return None, "Not calibrated: all rows have one label, so that there is no wrong one to plant."
    # Another stream than that of planted noise, which is drawn by the same seed.
    seed = int(np.random.SeedSequence((settings.seed, 1)).generate_state(1)[0])
    drawn = draw_canaries(train.labels, count, seed=seed)
    n = len(train)
    audited = train.select(np.concatenate([np.arange(n), drawn.positions]))
    rows, labels = audited.rows.copy(), audited.labels.copy()
    rows[n:], labels[n:] = -1 - rows[n:], drawn.labels
    taught = train.with_labels(drawn.taught(train.labels))
    return Planned(drawn, taught, replace(audited, rows=rows, labels=labels)), ""


def taught(inputs: Inputs, planned: Planned | None) -> Inputs:
    """The inputs as the model is trained on them."""
    return inputs if planned is None else replace(inputs, train=planned.taught)


def extend_margins(source: Path, target: Path, planned: Planned) -> Path:
    """Margins during training of all that is audited, from those of the rows as they were trained on.

    A row that is a canary was trained on the wrong label. Its margin under the user's label is taken to be the
    negative: so it is with two classes, and with more where the two labels are the likeliest.
    """
    margins: np.ndarray = np.load(source)
    of_canaries = margins[:, planned.canaries.positions]
    whole = np.concatenate([margins, of_canaries], axis=1)
    whole[:, planned.canaries.positions] = -of_canaries
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, whole)
    return target
