"""Planted noise that changes texts: corrupted words, and near-copies under another label."""

from dataclasses import replace

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Int

from undertow.data import rewording
from undertow.data.planting import Planted, affected_rows, present_classes
from undertow.data.samples import Samples
from undertow.errors import ConfigError, DataError


def corrupt_words(samples: Samples, rate: float, *, seed: int, share: float = 0.5) -> Planted:
    """Corrupts ``share`` of the words, at least one, of uniformly drawn rows; the labels stay.

    Words are what white space separates. A third each is dropped, swapped with a neighbour, or replaced by a word of
    another row; second texts likewise, from second texts. A first text always changes, and no text becomes empty.

    Raises:
        ConfigError: a rate or share out of range, or a rate that affects no row.
        DataError: fewer rows than asked for have a first text that can change: one without words cannot.
    """
    size = affected_rows(samples, rate)
    if not 0 < share <= 1:
        raise ConfigError(f"The share of words to corrupt is {share}. It is above 0 and at most 1; 0.5 is usual.")
    rng = np.random.default_rng(seed)
    able = np.flatnonzero(rewording.changeable(samples.texts))
    if len(able) < size:
        raise DataError(
            f"A rate of {rate} corrupts {size} texts of {samples.source}, and {len(able)} of its {len(samples)} can "
            "change. A text needs two words, or one that can become a word of another row; lower the rate or leave out "
            "empty texts."
        )
    rows = np.sort(rng.choice(able, size=size, replace=False))
    columns = {samples.columns.text: rewording.corrupt(samples.texts, rows, share, rng)}
    if samples.columns.text_pair and samples.text_pairs is not None:
        columns[samples.columns.text_pair] = rewording.corrupt(samples.text_pairs, rows, share, rng)
    return Planted(
        samples=replace(samples, table=_with_columns(samples.table, columns)),
        planted=_mask(samples, rows),
        original_labels=samples.labels.copy(),
    )


def conflicting_duplicates(samples: Samples, rate: float, *, seed: int) -> Planted:
    """Replaces rows by near-copies of other, untouched rows, under another label; the number of rows stays.

    A near-copy has one word dropped or two neighbours swapped, in the first text or, where that has one word, in the
    second; without two words in either it is the same. All its columns are those of the row it copies, only the row id
    stays. Labels are drawn from the other classes that have rows. ``original_labels`` of a near-copy is the label of
    the row it copies. Untouched rows are copied as evenly as can be.

    Raises:
        ConfigError: a rate out of range, or one that affects no row or every row.
        DataError: there are fewer than two classes.
    """
    size = affected_rows(samples, rate)
    present = present_classes(samples)
    if size == len(samples):
        raise ConfigError(
            f"A rate of {rate} replaces all {len(samples)} rows of {samples.source}, and leaves none to copy. Lower it."
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))
    rows = np.sort(order[:size])
    sources = np.arange(len(samples))
    sources[rows] = np.resize(order[size:], size)
    original = samples.labels[sources]
    steps = rng.integers(1, len(present), size=size)
    labels = original.copy()
    labels[rows] = present[(np.searchsorted(present, original[rows]) + steps) % len(present)]
    texts = [samples.texts[source] for source in sources]
    pairs = [samples.text_pairs[source] for source in sources] if samples.text_pairs is not None else None
    for row in rows:
        if len(texts[row].split()) < 2 and pairs is not None:
            pairs[row] = rewording.near_copy(pairs[row], rng)
        else:
            texts[row] = rewording.near_copy(texts[row], rng)
    columns = {samples.columns.text: texts}
    if samples.columns.text_pair and pairs is not None:
        columns[samples.columns.text_pair] = pairs
    table = _with_columns(samples.table.select(sources), columns)
    return Planted(
        samples=replace(samples, table=table, labels=labels), planted=_mask(samples, rows), original_labels=original
    )


def _mask(samples: Samples, rows: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " n"]:
    """True at these positions."""
    mask = np.zeros(len(samples), dtype=bool)
    mask[rows] = True
    return mask


def _with_columns(table: Dataset, columns: dict[str, list[str]]) -> Dataset:
    """The table with other values in these columns; order and types stay."""
    return Dataset.from_dict(table.with_format(None)[:] | columns, features=table.features)
