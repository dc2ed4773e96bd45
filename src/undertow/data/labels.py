"""Turns a label column of any kind into class names and class indices."""

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from jaxtyping import Int

from undertow.data.columns import first_cells, kind_of
from undertow.data.wording import first_rows, quoted
from undertow.errors import DataError

INTEGER = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True)
class LabelColumn:
    """A label column as read: the label name of each row, and the names in class order.

    ``named`` is True where a ClassLabel feature gave the names, so that 0, 1, 2, … mean ``order``.
    """

    names: list[str]
    order: tuple[str, ...]
    named: bool = False

    @property
    def all_integers(self) -> bool:
        """Whether every label is a plain integer without a name of its own."""
        return not self.named and all(INTEGER.fullmatch(name) for name in self.order)


def read_labels(table: Dataset, column: str) -> LabelColumn:
    """The labels of a ClassLabel, string, integer, boolean or whole-number float column.

    Raises:
        DataError: labels are missing, hidden (-1 of a ClassLabel), fractions, or not one value per row.
    """
    kind = kind_of(table, column)
    if kind == "other":
        raise DataError(
            f"The label column '{column}' holds {table.features[column]} ({first_cells(table, column)}). "
            "Accepted is one class per row as a string, an integer or a boolean. Convert the column or name "
            "another with --label-column."
        )
    values = table.with_format(None)[column][:]
    missing = [row for row, value in enumerate(values) if _is_missing(value, kind == "class")]
    if missing:
        hidden = " (-1 marks a hidden label, as in the test splits of benchmarks)" if kind == "class" else ""
        raise DataError(
            f"The label column '{column}' has no label in {len(missing)} of {len(values)} rows{hidden}: "
            f"{first_rows(missing)}. Every row needs one; label these rows or leave them out."
        )
    if kind == "class":
        names = tuple(str(name) for name in table.features[column].names)
        return LabelColumn([names[value] for value in values], names, named=True)
    if kind == "text":
        return LabelColumn(values, tuple(sorted(set(values))))
    fractions = [row for row, value in enumerate(values) if kind == "float" and not float(value).is_integer()]
    if fractions:
        raise DataError(
            f"The label column '{column}' holds fractions in {first_rows(fractions)}, the first is "
            f"{values[fractions[0]]}. Accepted are classes (strings, integers, booleans), not scores. Cut "
            "the scores into classes, or name another column with --label-column."
        )
    return LabelColumn([str(int(value)) for value in values], tuple(str(i) for i in sorted({int(v) for v in values})))


def _is_missing(value: object, from_feature: bool) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (from_feature and value == -1)


def index_labels(
    labels: LabelColumn, classes: tuple[str, ...] | None, class_positions: bool, role: str
) -> tuple[tuple[str, ...], Int[np.ndarray, " n"], tuple[str, ...]]:
    """The classes, the class index of each row, and notes. Without ``classes``, the labels' own order.

    Integers are read as positions in ``classes``, and ClassLabel names as their codes, where only that
    reading is possible.

    Raises:
        DataError: labels that are not among ``classes``; with their counts.
    """
    if classes is None:
        classes = labels.order
    names, notes = _translated(labels, classes, class_positions)
    index = {name: position for position, name in enumerate(classes)}
    unknown = Counter(name for name in names if name not in index)
    if unknown:
        shown = ", ".join(f"'{name}' ({count} rows)" for name, count in sorted(unknown.items())[:20])
        hint = (
            " Integers are read as classes only where training gives their order by a ClassLabel feature."
            if labels.all_integers and not any(INTEGER.fullmatch(name) for name in classes)
            else ""
        )
        raise DataError(
            f"The {role} labels {shown} are not among the training classes {quoted(classes)}.{hint} Every "
            f"{role} label must occur in training; rename these labels or leave their rows out."
        )
    return classes, np.array([index[name] for name in names], dtype=np.int64), notes


def _translated(
    labels: LabelColumn, classes: tuple[str, ...], class_positions: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The rows' labels in the words of ``classes``."""
    if set(labels.names) <= set(classes):
        return labels.names, ()
    numbered = [str(position) for position in range(len(classes))]
    if labels.all_integers and class_positions and set(labels.order) <= set(numbered):
        if not any(INTEGER.fullmatch(name) for name in classes):
            note = ", ".join(f"{i} is '{name}'" for i, name in enumerate(classes))
            return [classes[int(name)] for name in labels.names], (f"labels are read as positions: {note}",)
    elif labels.named and not set(labels.order) & set(classes):
        codes = {name: str(code) for code, name in enumerate(labels.order)}
        if set(codes.values()) <= set(classes):
            note = ", ".join(f"'{name}' is {code}" for name, code in codes.items())
            return [codes[name] for name in labels.names], (f"labels are read as their codes: {note}",)
    return labels.names, ()
