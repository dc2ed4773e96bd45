"""What can be done with suspicious rows: leave them out, give them another label, or let them count less."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from jaxtyping import Bool

from undertow.data import Samples
from undertow.data.columns import kind_of
from undertow.data.labels import read_labels
from undertow.errors import DataError

DROPPED, RELABELLED, WEIGHTED, AS_GIVEN = "dropped", "relabelled", "down-weighted", "as given"
WEIGHT = "weight"
SUGGESTION = "suggested_probability"
# Association of removal with the given label from which errors count as gathered in some labels (Cramér's V), and the
# level of its chi-squared test. Halved, errors spread over two labels by chance count as gathered.
GATHERED, LEVEL = 0.2, 0.01


def likelier_labels(harm: pd.DataFrame) -> Bool[np.ndarray, " n"]:
    """Flagged rows whose suggested label is likelier right than the given one."""
    if SUGGESTION not in harm:
        return np.zeros(len(harm), dtype=bool)
    suggested = np.nan_to_num(harm[SUGGESTION].to_numpy(dtype=np.float64))
    result: np.ndarray = harm["flagged"].to_numpy(bool) & (suggested > 1 - harm["wrong"].to_numpy())
    return result


def gathered(harm: pd.DataFrame) -> bool:
    """Whether the rows to act on gather in some given labels, so that leaving them out would thin out a class.

    By Cramér's V of acting against the given label (Cramér 1946) and its chi-squared test.
    """
    from scipy.stats import chi2_contingency

    acted = harm["removed"] if harm["removed"].any() else harm["flagged"]
    table = pd.crosstab(harm["label"], acted).to_numpy()
    if table.shape[1] < 2 or len(table) < 2:
        return False
    found = chi2_contingency(table, correction=False)
    return bool(found.pvalue < LEVEL and np.sqrt(found.statistic / len(harm)) >= GATHERED)


def advised(harm: pd.DataFrame) -> str:
    """The action that follows from what is wrong, where none was measured."""
    if gathered(harm) and likelier_labels(harm).any():
        return RELABELLED
    return DROPPED if harm["removed"].any() else AS_GIVEN


def label_values(samples: Samples) -> dict[str, object]:
    """The user's own value of each class that the user's label column holds, or could hold."""
    column = samples.columns.label
    kind = kind_of(samples.table, column)
    first: dict[str, object] = {}
    if kind == "text":
        first = {name: name for name in samples.classes}
    if kind == "class":
        first = {name: i for i, name in enumerate(samples.table.features[column].names)}
    for name, value in zip(read_labels(samples.table, column).names, samples.table[column][:], strict=True):
        first[name] = value
    return first


def relabelled_rows(samples: Samples, harm: pd.DataFrame) -> Bool[np.ndarray, " n"]:
    """Flagged rows whose suggested label is likelier right, and has a value in the user's column."""
    known = harm["suggested_label"].isin(list(label_values(samples))).to_numpy()
    result: np.ndarray = likelier_labels(harm) & known
    return result


def with_labels(samples: Samples, rows: Bool[np.ndarray, " n"], names: list[Any]) -> Dataset:
    """The user's table with the labels of some rows replaced, in the type of the column.

    Args:
        samples: the rows.
        rows: which get another label.
        names: class name of each of the n rows; only those of the chosen rows are used.

    Raises:
        DataError: when no row carries the label, so that its value in the user's column is not known.
    """
    column, values = samples.columns.label, label_values(samples)
    labels = list(samples.table[column][:])
    for i in np.flatnonzero(rows):
        if names[i] not in values:
            raise DataError(
                f"No row carries the label {names[i]!r}, so its value in the column '{column}' is not known."
            )
        labels[i] = values[str(names[i])]
    arrow = samples.table.with_format("arrow")[:]
    place = arrow.schema.get_field_index(column)
    return Dataset(arrow.set_column(place, arrow.schema.field(place), pa.array(labels, arrow.schema.field(place).type)))


def cleaned_rows(samples: Samples, harm: pd.DataFrame, action: str) -> tuple[Dataset, Dataset]:
    """The rows after an action, and those that it leaves out, in the user's columns.

    Args:
        samples: the training rows, in the order of the harm table.
        harm: the harm table.
        action: dropped, relabelled, down-weighted (adds the column ``weight``, or ``undertow_weight`` where that is
            taken) or as given. A row whose label was planted keeps the user's own.
    """
    table, nothing = samples.table, samples.table.select([])
    if action == DROPPED:
        removed = harm["removed"].to_numpy(bool)
        return table.select(np.flatnonzero(~removed)), table.select(np.flatnonzero(removed))
    if action == RELABELLED:
        own = np.array(read_labels(table, samples.columns.label).names) == np.array(samples.label_names)
        return with_labels(samples, relabelled_rows(samples, harm) & own, harm["suggested_label"].tolist()), nothing
    if action == WEIGHTED:
        name = f"undertow_{WEIGHT}" if WEIGHT in table.column_names else WEIGHT
        arrow = table.with_format("arrow")[:].append_column(name, pa.array((1 - harm["wrong"]).tolist()))
        return Dataset(arrow), nothing
    return table, nothing
