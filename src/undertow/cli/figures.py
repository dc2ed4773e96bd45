"""``undertow figures``: what a study found, as figures in SVG and PNG."""

from pathlib import Path
from typing import Annotated

import typer

from undertow.cli.options import names
from undertow.cli.tables import STUDY, print_written


def figures_command(
    study: Annotated[Path, STUDY],
    only: Annotated[
        str | None,
        typer.Option(
            help="Figures, joined by commas: ndr-profile, win-rate-profile, ndr-by-k, agreement, noise-rank-profile, "
            "accuracy-against-ndr30; all unless given.",
            metavar="NAME",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; STUDY/figures unless given.", metavar="FOLDER")
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Resamples of the cells behind each interval.", metavar="TIMES", min=1)
    ] = 1000,
) -> None:
    """Draw the figures of a study as SVG and PNG: profiles over layers, the k of vote, agreement, accuracy.

    A figure that the study has no numbers for is left out, and the reason is printed.
    """
    from undertow.study.figures import FIGURES, write_figures
    from undertow.study.frames import read_frames
    from undertow.study.tables import check_names

    chosen = check_names(names(only), tuple(FIGURES), "figure")
    written, left = write_figures(read_frames(study), out or study / "figures", chosen, times=resamples)
    print_written(written, left)
