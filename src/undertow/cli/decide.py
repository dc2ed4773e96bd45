"""``undertow decide`` and ``undertow restore``: act on the rows of an audit, and undo it."""

from pathlib import Path
from typing import Annotated

import typer


def decide_command(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished audit.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .tsv, .jsonl or .parquet.", metavar="FILE")
    ] = None,
    action: Annotated[
        str,
        typer.Option(
            help="drop the rows that the audit removes; relabel the flagged ones as suggested; weight every row by the "
            "probability that its label is right; or review, which marks the flagged ones.",
            metavar="WHAT",
        ),
    ] = "drop",
    above: Annotated[
        float | None,
        typer.Option(
            help="Probability from which to act on flagged rows: of a wrong label to drop them (what the audit "
            "removes), of the suggested one to relabel them (where it is likelier right than the given one).",
            metavar="NUMBER",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Act on the rows of these sources alone, such as annotators; join by commas.", metavar="NAME"
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Compare the values of this column, such as sources or annotators.", metavar="COLUMN"),
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="The training data, where it is no longer where it was.", metavar="SRC")
    ] = None,
) -> None:
    """Carry out a decision on the training data of an audit, in a copy that says why and can be restored.

    Writes FILE with the columns undertow_action, undertow_rank, undertow_wrong and undertow_suggested, and beside it
    FILE.undertow.json, by which undertow restore undoes it. With --group-by, prints how many labels look wrong in
    each group, the worst first.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from undertow.cli.options import names
    from undertow.errors import ConfigError
    from undertow.pipeline.decide import decide, group_table

    if out is None and group_by is None:
        raise ConfigError("Nothing is asked for. Give --out FILE to write the data, or --group-by COLUMN to compare.")
    console = Console()
    if group_by is not None:
        found = group_table(run, group_by, train=train)
        shown = Table(title=f"Labels that look wrong, by {group_by}", title_justify="left")
        shown.add_column(group_by)
        for name in ("rows", "flagged", "wrong", "95% interval"):
            shown.add_column(name, justify="right", no_wrap=True)
        for row in found.to_dict("records"):
            interval = f"{row['low']:.0%} to {row['high']:.0%}"
            shown.add_row(
                escape(row["group"]), f"{row['rows']:,}", f"{row['flagged']:.0%}", f"{row['share']:.0%}", interval
            )
        console.print(shown)
    if out is not None:
        made = decide(run, out, action=action, above=above, sources=names(source), train=train)
        counts = ", ".join(f"{count:,} {name}" for name, count in made.counts.items())
        console.print(f"{made.path}: {counts}.", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"Undo it: undertow restore {made.path} --out FILE", markup=False, highlight=False, soft_wrap=True
        )


def restore_command(
    path: Annotated[Path, typer.Argument(help="A file that undertow decide wrote.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="File to write the rows to as they were.", metavar="FILE")],
) -> None:
    """Undo undertow decide: write the rows as they were, each checked by its hash."""
    from undertow.pipeline.decide import restore

    typer.echo(f"{restore(path, out)}: every row is as it was.")
