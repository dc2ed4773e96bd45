"""``undertow sample``: draw training rows to be labelled again with care."""

from pathlib import Path
from typing import Annotated

import typer


def sample_command(
    train: Annotated[str, typer.Argument(help="Training data, in any form that audit reads.", metavar="TRAIN")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .tsv, .jsonl or .parquet.", metavar="FILE")],
    rows: Annotated[int, typer.Option(help="How many rows.", metavar="N")] = 200,
    text_column: Annotated[str | None, typer.Option(help="Column of the text.", metavar="NAME")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.", metavar="NAME")] = None,
    seed: Annotated[int, typer.Option(help="Draws the rows.", metavar="N")] = 0,
) -> None:
    """Draw random rows of the training data and write them without labels, to be labelled again with care.

    They are the best trusted rows for an audit: they stand for the training data as it is, and where the old label
    differs from the careful one, a wrong row is known.
    """
    from undertow.data import load_samples, write_rows
    from undertow.data.sampling import draw_sample
    from undertow.errors import RunFolderError

    if out.exists():
        raise RunFolderError(f"{out} exists and is not overwritten. Name another file, or delete it.")
    samples = load_samples(train, text=text_column, label=label_column)
    write_rows(draw_sample(samples, rows, seed=seed), out)
    column = samples.columns.label
    typer.echo(f"{out}: {rows:,} of {len(samples):,} rows, without labels.")
    typer.echo(f"Next: fill in the column '{column}' with care, without a look at the old labels, and give the file as")
    typer.echo(f"  undertow audit --model MODEL --train {train} --validation {out} --out RUN")
