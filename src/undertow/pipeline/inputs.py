"""Resolving what an audit is given: model, data, splits, planted noise."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from datasets import Dataset

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
from undertow.errors import ModelError
from undertow.pipeline.settings import AuditSettings

Source: TypeAlias = str | Path | Dataset | pd.DataFrame | Samples

# Fewer held-out rows than this cannot tell two models apart; the paper's own halves hold 436 and more.
MIN_HOLDOUT = 200


@dataclass(frozen=True)
class Inputs:
    """The data of an audit in its roles.

    Attributes:
        train: what is trained on and audited; with planted noise the labels are the flipped ones.
        selection: chooses the checkpoint.
        queries: trusted samples whose loss is traced.
        evaluation: what accuracies are compared on.
        evaluated_on: which split that is, in a sentence.
        planted: what was planted, or None.
        notes: what a user should know of this data.
        fingerprints: content hash of each source.
    """

    train: Samples
    selection: Samples
    queries: Samples
    evaluation: Samples
    evaluated_on: str
    planted: Planted | None
    notes: tuple[str, ...]
    fingerprints: dict[str, str]

    @property
    def user_labels(self) -> np.ndarray:
        """Class indices as the user gave them, before anything was planted, [n]."""
        return self.train.labels if self.planted is None else self.planted.original_labels


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
        DataError: for any source that cannot be used.
        ModelError: when the model was trained for other classes.
    """
    columns: dict[str, Any] = {
        "text": settings.text_column,
        "text_pair": settings.text_pair_column,
        "label": settings.label_column,
    }
    given = _in_model_order(load_samples(train, **columns, role="training"), model_classes)
    check_enough_rows(given, settings.batch_size)
    trusted = {"validation": validation, "queries": queries, "test": test}
    known: dict[str, Any] = {"classes": given.classes, "class_positions": has_class_positions(given)}
    others = {
        role: load_samples(source, **columns, **known, role=role)
        for role, source in trusted.items()
        if source is not None
    }
    for other in others.values():
        check_same_inputs(given, other)
    selection, asked, evaluation, evaluated_on = _roles(others, settings)
    planted = plant_noise(given, settings.plant, seed=settings.seed) if settings.plant else None
    samples = {"training": given, **others}
    return Inputs(
        planted.samples if planted else given,
        selection,
        asked,
        evaluation,
        evaluated_on,
        planted,
        tuple(_notes(given, others)),
        {role: fingerprint(s) for role, s in samples.items()},
    )


def _in_model_order(train: Samples, model_classes: tuple[str, ...] | None) -> Samples:
    """Number the classes as the trained head does, where its names are known."""
    if model_classes is None or model_classes == train.classes:
        return train
    if set(model_classes) != set(train.classes):
        raise ModelError(
            f"The model was trained for the classes {', '.join(model_classes)}, but the training data has "
            f"{', '.join(train.classes)}. Give data with the model's classes, or pass --finetune always to train a "
            "new adapter and head."
        )
    place = np.array([model_classes.index(c) for c in train.classes])
    return replace(train, classes=model_classes, labels=place[train.labels])


def _roles(others: dict[str, Samples], settings: AuditSettings) -> tuple[Samples, Samples, Samples, str]:
    """Selection, queries, evaluation, and which split the last one is, in words."""
    validation, test = others["validation"], others.get("test")
    share = settings.holdout_share
    if share is None:
        enough = settings.retrain and test is None and len(validation) // 3 >= MIN_HOLDOUT
        share = 1 / 3 if enough else 0.0
    selection, queries, holdout = _split(validation, others.get("queries"), share, settings)
    if test is not None:
        return selection, queries, test, f"{len(test):,} rows of the test source {test.source}"
    if holdout is not None:
        text = f"{len(holdout):,} held-out rows of {validation.source} that chose neither a checkpoint nor a sample"
        return selection, queries, holdout, text
    text = (
        f"the {len(selection):,} validation rows that also chose the checkpoints (too few rows to hold some out): "
        "accuracies are optimistic, for all models alike"
    )
    return selection, queries, selection, text


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


def _notes(train: Samples, others: dict[str, Samples]) -> list[str]:
    notes = [f"{train.source}: {'; '.join(train.columns.notes)}"] if train.columns.notes else []
    for role, other in others.items():
        leaks = count_leaks(train, other)
        if leaks:
            notes.append(
                f"Leak: {leaks:,} training rows stand in the {role} source too, word for word. What is measured "
                "there is optimistic; remove them from one side."
            )
    conflicts = duplicate_conflicts(train)
    if conflicts:
        notes.append(f"{conflicts:,} training rows repeat a text that also carries another label.")
    return notes
