"""A random sample of the training rows, to be labelled again with care, and finding it again among them."""

import numpy as np
import pyarrow as pa
from datasets import Dataset
from jaxtyping import Int

from undertow.data.samples import Samples
from undertow.errors import ConfigError

# Column that says which training row a row of a sample is, 0-based.
ROW = "undertow_row"


def draw_sample(samples: Samples, rows: int, *, seed: int) -> Dataset:
    """A simple random sample of the rows, in their order, without their labels.

    All columns stay; the label column is empty, to be filled in, and `ROW` says which training row each is. The sample
    is not stratified: so it stands for the training data as it is.

    Raises:
        ConfigError: when fewer than 1 or more rows than there are are asked for, or a column has the name `ROW`.
    """
    if not 1 <= rows <= len(samples):
        raise ConfigError(f"--rows {rows} is not accepted: {samples.source} has {len(samples):,} rows to draw from.")
    if ROW in samples.table.column_names:
        raise ConfigError(f"The data already has the column {ROW}. Rename it, as the sample adds one of this name.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:rows])
    arrow = samples.table.select(chosen).with_format("arrow")[:]
    place = arrow.schema.get_field_index(samples.columns.label)
    arrow = arrow.set_column(place, samples.columns.label, pa.nulls(rows, pa.string()))
    return Dataset(arrow.append_column(ROW, pa.array(samples.rows[chosen])))


def sampled_rows(train: Samples, trusted: Samples) -> Int[np.ndarray, " trusted"] | None:
    """Position in the training data of each trusted row that `draw_sample` took from it; None where none was.

    A trusted row is the training row that its column `ROW` names, if both have the same texts. Others get -1.
    """
    if ROW not in trusted.table.column_names:
        return None
    found = np.full(len(trusted), -1, dtype=np.int64)
    own = train.inputs
    for i, (row, texts) in enumerate(zip(trusted.table[ROW][:], trusted.inputs, strict=True)):
        place = int(row) if row is not None and str(row).removesuffix(".0").isdigit() else -1
        if 0 <= place < len(train) and own[place] == texts:
            found[i] = place
    return found if (found >= 0).any() else None
