"""Resolving what an audit is given: model, data, splits, planted noise."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from datasets import Dataset

from undertow.aggregation.names import vote_count
from undertow.aggregation.queries import Queries, query_weights
from undertow.baselines.registry import check_labels
from undertow.controls.anchors import anchor_count
from undertow.controls.canaries import canary_count
from undertow.controls.share import exact_interval
from undertow.data import (
    Planted,
    Samples,
    check_enough_rows,
    check_same_inputs,
    count_leaks,
    duplicate_conflicts,
    fingerprint,
    has_class_positions,
    load_samples,
    plant_noise,
    split_validation,
)
from undertow.data.sampling import sampled_rows
from undertow.errors import ConfigError, ModelError
from undertow.pipeline.baselines import annotations
from undertow.pipeline.settings import AuditSettings

Source: TypeAlias = str | Path | Dataset | pd.DataFrame | Samples | Planted

# Fewer held-out rows than this cannot tell two models apart; the paper's own halves hold 436 and more.
MIN_HOLDOUT = 200


@dataclass(frozen=True)
class Again:
    """Training rows that were labelled again with care.

    Attributes:
        rows: how many.
        wrong: row ids, in the trusted source, of those whose old label differs.
        share: share of wrong old labels, with its exact 95% interval.
        alone: whether all rows of the trusted source are such rows.
    """

    rows: int
    wrong: frozenset[int]
    share: tuple[float, float, float]
    alone: bool

    @property
    def note(self) -> str:
        """What it says of the training data."""
        value, low, high = self.share
        return (
            f"{self.rows:,} training rows were labelled again with care; the labels of {len(self.wrong):,} differ "
            f"({value:.1%}, {low:.0%} to {high:.0%}, 95%). They are trusted rows now: neither audited, nor in the "
            "cleaned data. Add your careful rows to it."
        )


@dataclass(frozen=True)
class Inputs:
    """The data of an audit in its roles.

    Attributes:
        train: what is trained on and audited; with planted noise the labels are the flipped ones.
        selection: chooses the checkpoint.
        queries: trusted samples whose loss is traced.
        anchors: trusted samples that are trained on as known good rows; None where there are none.
        evaluation: what accuracies are compared on.
        evaluated_on: which split that is, in a sentence.
        planted: what was planted, or None.
        detected: for each source its rows, classes and columns, and how the columns were found.
        notes: what a user should know of this data.
        fingerprints: content hash of each source.
    """

    train: Samples
    selection: Samples
    queries: Samples
    anchors: Samples | None
    evaluation: Samples
    evaluated_on: str
    planted: Planted | None
    again: Again | None
    detected: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprints: dict[str, str]


def load_inputs(
    train: Source,
    validation: Source,
    queries: Source | None,
    test: Source | None,
    settings: AuditSettings,
    *,
    model_classes: tuple[str, ...] | None = None,
) -> Inputs:
    """Read, check and split the data of an audit.

    Raises:
        DataError: for any source that cannot be used, or labels that do not allow a baseline.
        ModelError: when the model was trained for other classes.
    """
    columns: dict[str, Any] = {
        "text": settings.text_column,
        "text_pair": settings.text_pair_column,
        "label": settings.label_column,
    }
    truth = train if isinstance(train, Planted) else None
    if truth is not None and settings.plant:
        raise ConfigError("The training rows came with planted noise already. Leave out plant=, or give plain rows.")
    source = truth.samples if truth is not None else train
    read = load_samples(source, **columns, source_column=settings.source_column, role="training")
    check_enough_rows(read, settings.batch_size)
    order = _class_order(read.classes, model_classes)
    given = _renumbered(read, order)
    trusted = {"validation": validation, "queries": queries, "test": test}
    if any(isinstance(source, Planted) for source in trusted.values()):
        raise ConfigError("Trusted rows came with planted noise. Give rows whose labels are right.")
    known: dict[str, Any] = {"classes": read.classes, "class_positions": has_class_positions(read)}
    others = {
        role: _renumbered(load_samples(source, **columns, **known, source_column="none", role=role), order)
        for role, source in trusted.items()
        if source is not None
    }
    for other in others.values():
        check_same_inputs(given, other)
    kept, again = _labelled_again(given, others["validation"])
    given = given if kept is None else given.select(kept)
    selection, asked, anchors, evaluation, evaluated_on = _roles(others, settings, len(given))
    _check_aggregation(given, asked, settings)
    planted = plant_noise(given, settings.plant, seed=settings.seed) if settings.plant else truth
    if truth is not None and kept is not None:
        planted = truth.select(kept)
    annotations(settings.baselines, given)
    check_labels(settings.baselines, planted.samples.labels if planted else given.labels, asked.labels)
    samples = {"training": given, **others}
    return Inputs(
        planted.samples if planted else given,
        selection,
        asked,
        anchors,
        evaluation,
        evaluated_on,
        planted,
        again,
        tuple(_detected(role, s) for role, s in samples.items()),
        (*_notes(given, others, model_classes), *([again.note] if again else [])),
        {role: fingerprint(s) for role, s in samples.items()},
    )


def _labelled_again(train: Samples, trusted: Samples) -> tuple[np.ndarray | None, Again | None]:
    """Positions of the training rows that do not stand among the trusted rows with careful labels, and these."""
    places = sampled_rows(train, trusted)
    if places is None:
        return None, None
    known = np.flatnonzero(places >= 0)
    wrong = known[train.labels[places[known]] != trusted.labels[known]]
    kept = np.setdiff1d(np.arange(len(train)), places[known])
    share = exact_interval(len(wrong), len(known))
    return kept, Again(len(known), frozenset(trusted.rows[wrong].tolist()), share, len(known) == len(trusted))


def _check_aggregation(train: Samples, queries: Samples, settings: AuditSettings) -> None:
    """Refuse what only shows with the data: a k above its rows, a class of samples without queries."""
    vote_count(settings.k, len(train))
    right = np.ones(len(queries), dtype=bool)  # which ones the model predicts is not known yet
    known = Queries(len(queries), queries.labels, right, right.astype(np.float64), None, queries.classes)
    query_weights(known, train.labels, len(train), settings.counted, settings.weigh)


def _class_order(classes: tuple[str, ...], model_classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes as the outputs of the trained head are numbered, where its names are known.

    Labels 0, 1, 2, … are the positions of its outputs where those have other names.
    """
    if model_classes is None:
        return classes
    positions = tuple(str(i) for i in range(len(model_classes)))
    order = next((o for o in (model_classes, positions) if set(classes) <= set(o)), None)
    if order is None:
        raise ModelError(
            f"The model was trained for the classes {', '.join(model_classes)}, but the training data has "
            f"{', '.join(classes)}. Give data with the model's classes, or pass --finetune always to train a "
            "new adapter and head."
        )
    return order


def _renumbered(samples: Samples, order: tuple[str, ...]) -> Samples:
    place = np.array([order.index(c) for c in samples.classes])
    return replace(samples, classes=order, labels=place[samples.labels])


def _roles(
    others: dict[str, Samples], settings: AuditSettings, rows: int
) -> tuple[Samples, Samples, Samples | None, Samples, str]:
    """Selection, queries, anchors, evaluation, and which split the last one is, in words."""
    validation, test = others["validation"], others.get("test")
    share, why = settings.holdout_share, "--holdout-share 0 holds none out"
    if share is None:
        why = f"fewer than {3 * MIN_HOLDOUT} are too few to hold some out"
        enough = settings.retrain and test is None and len(validation) // 3 >= MIN_HOLDOUT
        share = 1 / 3 if enough else 0.0
    rest, anchors = _anchors(validation, share, settings, rows)
    kept = share * len(validation) / len(rest)
    selection, queries, holdout = _split(rest, others.get("queries"), kept, settings)
    if test is not None:
        return selection, queries, anchors, test, f"{len(test):,} rows of the test source {test.source}"
    if holdout is not None:
        text = f"{len(holdout):,} held-out rows of {validation.source} that chose neither a checkpoint nor a sample"
        return selection, queries, anchors, holdout, text
    text = (
        f"the {len(selection):,} validation rows that also chose the checkpoints ({why}): accuracies are optimistic, "
        "for all models alike"
    )
    return selection, queries, anchors, selection, text


def _anchors(
    validation: Samples, holdout_share: float, settings: AuditSettings, rows: int
) -> tuple[Samples, Samples | None]:
    """The validation rows without the anchors, and the anchors; none where training rows are too few for controls."""
    usable = round((1 - holdout_share) * len(validation))
    wanted = settings.calibrate and canary_count(rows, settings.canaries)
    count = anchor_count(usable, settings.anchors) if wanted else 0
    if not count:
        return validation, None
    parts = split_validation(validation, query_share=count / len(validation), seed=settings.seed)
    return parts.selection, parts.queries


def _split(
    validation: Samples, queries: Samples | None, holdout_share: float, settings: AuditSettings
) -> tuple[Samples, Samples, Samples | None]:
    if queries is None:
        parts = split_validation(
            validation, query_share=settings.query_share, holdout_share=holdout_share, seed=settings.seed
        )
        return parts.selection, parts.queries, parts.holdout
    if holdout_share == 0:
        return validation, queries, None
    parts = split_validation(validation, query_share=holdout_share, seed=settings.seed)
    return parts.selection, queries, parts.queries


def _detected(role: str, samples: Samples) -> str:
    classes = ", ".join(samples.classes[:8]) + (", …" if len(samples.classes) > 8 else "")
    counts = f"{len(samples):,} rows" + (f", {len(samples.classes)} classes ({classes})" if role == "training" else "")
    return "; ".join((f"{role.capitalize()} data {samples.source}: {counts}", *samples.columns.notes)) + "."


def _notes(train: Samples, others: dict[str, Samples], model_classes: tuple[str, ...] | None) -> list[str]:
    notes = []
    if model_classes and train.classes != model_classes:
        read = ", ".join(f"{i} is {name}" for i, name in enumerate(model_classes))
        notes.append(f"The labels are read as positions of the model's outputs: {read}.")
    for role, other in others.items():
        leaks = count_leaks(train, other)
        if leaks:
            notes.append(
                f"Leak: {leaks:,} of {len(train):,} training rows stand in the {role} source too, word for word. What "
                "is measured there is optimistic; remove them from one side."
            )
    conflicts = duplicate_conflicts(train)
    if conflicts:
        notes.append(f"{conflicts:,} training rows repeat a text that also carries another label.")
    return notes
