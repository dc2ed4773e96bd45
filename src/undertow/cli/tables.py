"""``undertow tables``: what a study found, as tables in Markdown and LaTeX."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from undertow.cli.options import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from undertow.study.tables import Left

STUDY = typer.Argument(help="Folder of a study, as undertow experiment leaves it.", metavar="STUDY", show_default=False)


def tables_command(
    study: Annotated[Path, STUDY],
    only: Annotated[
        str | None,
        typer.Option(
            help="Tables, joined by commas: layer-ranks, aggregation-gains, head-place, proxies, cancellation, "
            "ndr-layers, ndr-k, ndr-best, noise-ranks, agreement, filtering, costs, published; all unless given.",
            metavar="NAME",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; STUDY/tables unless given.", metavar="FOLDER")
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Resamples of the cells behind each interval.", metavar="TIMES", min=1)
    ] = 1000,
) -> None:
    """Write the tables of a study as Markdown and LaTeX: ranks, win rates, gains, proxies, noise found, accuracy, cost.

    A table that the study has no numbers for is left out, and the reason is printed.
    """
    from undertow.study.frames import read_frames
    from undertow.study.tables import TABLES, check_names, write_tables

    chosen = check_names(names(only), TABLES, "table")
    written, left = write_tables(read_frames(study), out or study / "tables", chosen, times=resamples)
    print_written(written, left)


def print_written(written: "Sequence[Path]", left: "Sequence[Left]") -> None:
    """Say what was written and what was left out."""
    console = Console()
    for path in written:
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    for item in left:
        console.print(f"Left out: {item.name}, as {item.why}.", markup=False, highlight=False, soft_wrap=True)
