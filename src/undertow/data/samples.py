"""The value objects that carry data through undertow."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from datasets import Dataset
from jaxtyping import Int


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the text, the optional second text, the label, and who or what gave it.

    ``notes`` says, one short sentence each, how a column was found (``"label: by name"``); it is printed.
    """

    text: str
    label: str
    text_pair: str | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """How messages name the columns."""
        pair = f", second text '{self.text_pair}'" if self.text_pair else ""
        return f"text '{self.text}'{pair}, label '{self.label}'"


@dataclass(frozen=True)
class Samples:
    """A table of labelled texts with stable row ids.

    Attributes:
        table: the user's rows and columns as they came, never changed; planted noise of texts makes another.
        columns: the columns that are read.
        classes: class names, in the order of the class indices.
        labels: class index of each row, shape [n]. Differs from the table's label column only where noise
            was planted.
        rows: stable row ids, shape [n]: the 0-based position in the source as it was read.
        source: what the rows came from, for messages and the manifest.
    """

    table: Dataset
    columns: Columns
    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    source: str

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @cached_property
    def texts(self) -> list[str]:
        """First text of each row."""
        return list(self.table[self.columns.text][:])

    @cached_property
    def text_pairs(self) -> list[str] | None:
        """Second text of each row, or None where the task has one text."""
        return list(self.table[self.columns.text_pair][:]) if self.columns.text_pair else None

    @cached_property
    def sources(self) -> list[str] | None:
        """Who or what labelled each row, or None where that is not known."""
        if self.columns.source is None:
            return None
        return ["" if value is None else str(value) for value in self.table[self.columns.source][:]]

    @property
    def inputs(self) -> list[tuple[str, ...]]:
        """The text of each row, or its two texts."""
        parts = [self.texts] if self.text_pairs is None else [self.texts, self.text_pairs]
        return list(zip(*parts, strict=True))

    def text_numbers(self) -> Int[np.ndarray, " n"]:
        """The same number for rows of the same text, or pair of texts."""
        place: dict[tuple[str, ...], int] = {}
        return np.array([place.setdefault(texts, len(place)) for texts in self.inputs])

    @property
    def label_names(self) -> list[str]:
        """Class name of each row."""
        return [self.classes[i] for i in self.labels]

    def select(self, positions: Int[np.ndarray, " m"]) -> "Samples":
        """The rows at these 0-based positions (not row ids), in this order."""
        return replace(
            self,
            table=self.table.select(positions),
            labels=self.labels[positions],
            rows=self.rows[positions],
        )

    def with_labels(self, labels: Int[np.ndarray, " n"]) -> "Samples":
        """The same rows with other class indices."""
        return replace(self, labels=labels)


def joined_samples(first: Samples, *others: Samples) -> Samples:
    """Rows of several sources behind each other, with their texts and labels alone.

    Args:
        first: names the columns and the classes, which the others share.
        others: with a second text where the first has one.
    """
    parts, columns = (first, *others), first.columns
    table = {columns.text: [text for part in parts for text in part.texts]}
    if columns.text_pair:
        table[columns.text_pair] = [text for part in parts for text in part.text_pairs or ()]
    if columns.source:
        table[columns.source] = [source for part in parts for source in part.sources or [""] * len(part)]
    labels, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "rows"))
    return Samples(Dataset.from_dict(table), columns, first.classes, labels, rows, first.source)
