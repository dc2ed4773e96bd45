"""Loads a source into Samples, or says why it cannot be used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset

from undertow.data.columns import detect_columns
from undertow.data.labels import index_labels, read_labels
from undertow.data.samples import Columns, Samples
from undertow.data.sources import read_table
from undertow.data.wording import first_rows, quoted
from undertow.errors import DataError


def load_samples(
    source: str | Path | Dataset | pd.DataFrame | Samples,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    source_column: str | None = None,
    classes: tuple[str, ...] | None = None,
    class_positions: bool = False,
    role: str = "training",
) -> Samples:
    """The labelled texts of a source; ``Samples`` come back unchanged.

    Args:
        source: see ``read_table``.
        text: column of the text; detected where None.
        text_pair: column of the second text; detected where None, "none" for a single text.
        label: column of the label; detected where None.
        source_column: column that names who or what labelled a row; detected where None, "none" for none.
        classes: the training classes, for validation; None for training, whose labels define them.
        class_positions: whether integers may stand for positions in ``classes``; see ``has_class_positions``.
        role: what the source is for, in messages.

    Raises:
        DataError: anything about the source, its columns, texts or labels that cannot be used.
    """
    if isinstance(source, Samples):
        return _same_classes(source, classes, role)
    try:
        table, description = read_table(source)
    except DataError as error:
        raise DataError(f"The {role} source: {error}") from error
    try:
        columns = detect_columns(table, text=text, text_pair=text_pair, label=label, source=source_column)
        _check_texts(table, columns)
        labels = read_labels(table, columns.label)
        names, indices, notes = index_labels(labels, classes, class_positions, role)
        if classes is None and len(set(labels.names)) < 2:
            raise DataError(
                f"All {len(table)} labels in column '{columns.label}' are '{labels.names[0]}'. At least two "
                "classes are needed; check the label column, or give data with more than one class."
            )
    except DataError as error:
        raise DataError(f"The {role} source {description}: {error}") from error
    return Samples(
        table=table,
        columns=replace(columns, notes=columns.notes + notes),
        classes=names,
        labels=indices,
        rows=np.arange(len(table), dtype=np.int64),
        source=description,
    )


def has_class_positions(samples: Samples) -> bool:
    """Whether a ClassLabel feature fixes the class order, so that 0, 1, 2, … elsewhere mean these classes.

    Sorted strings do not: another file's 0 and 1 may count its classes the other way round.
    """
    return isinstance(samples.table.features[samples.columns.label], ClassLabel)


def _same_classes(samples: Samples, classes: tuple[str, ...] | None, role: str) -> Samples:
    if classes is not None and samples.classes != classes:
        raise DataError(
            f"The {role} samples have the classes {quoted(samples.classes)}, training has {quoted(classes)}. "
            "Class indices must mean the same; load them with classes= of the training samples."
        )
    return samples


def _check_texts(table: Dataset, columns: Columns) -> None:
    """Refuses texts that are missing, empty or blank."""
    for name in (columns.text, columns.text_pair):
        values = table[name][:] if name else []
        bad = [row for row, value in enumerate(values) if value is None or not value.strip()]
        if bad:
            missing = sum(values[row] is None for row in bad)
            raise DataError(
                f"The text column '{name}' has {len(bad)} of {len(values)} rows without text ({missing} "
                f"null, {len(bad) - missing} empty or blank): {first_rows(bad)}. Every row needs a text; "
                "leave these rows out, or fill them in."
            )
