"""``undertow score``: aggregate the influence of a run anew."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from undertow.aggregation.names import AGGREGATION_NAMES, AGGREGATIONS, ONLY, WEIGH, is_reducible
from undertow.cli.options import Memory, Trim, names, numbers

if TYPE_CHECKING:
    from undertow.pipeline.score import ScoreOptions, ScoreTable

WORST = 10
_AS_RUN = " [default: as in the run]"


def score_command(
    run: Annotated[Path, typer.Argument(help="Run folder of an audit.", metavar="RUN", show_default=False)],
    estimator: Annotated[
        str | None,
        typer.Option(
            help=f"One that the run computed, or several joined by commas, aggregated together.{_AS_RUN}",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help=f"Which modules decide, as in undertow audit.{_AS_RUN}", metavar="GROUP", show_default=False),
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            help=f"How influences become one harm: {', '.join(AGGREGATION_NAMES)}; several by commas.{_AS_RUN}",
            metavar="HOW",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(
            help="How many samples vote looks at: a share of all, above 0 and at most 1, or a whole number above 1; "
            f"several by commas.{_AS_RUN}",
            metavar="NUMBER",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help=f"Which queries count: {', '.join(ONLY)}; join by commas.{_AS_RUN}", metavar="WHICH"),
    ] = None,
    weigh: Annotated[
        str | None, typer.Option(help=f"What each query weighs: {', '.join(WEIGH)}.{_AS_RUN}", metavar="HOW")
    ] = None,
    trim: Trim = 0.1,
    cut: Annotated[float | None, typer.Option(help=f"Share of the rows to flag.{_AS_RUN}", metavar="SHARE")] = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(help="Resamples that say how stable harm and flags are; 200 are usual.", metavar="TIMES"),
    ] = None,
    resample: Annotated[
        str, typer.Option(help="What is drawn anew: queries, modules or both.", metavar="WHAT")
    ] = "queries",
    memory: Memory = None,
    figures: Annotated[bool, typer.Option(help="Draw harm, and the noise found, on a page beside the table.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="File of the table instead of one in RUN/scores.", metavar="FILE")
    ] = None,
) -> None:
    """Aggregate the influence of a run anew: other layers, another aggregation, how stable it is.

    Reads RUN/influence.zarr and writes a table to RUN/scores. No model is loaded. What modules were reduced to is kept
    in RUN/reductions, so that the next question is answered faster.
    """
    from undertow.pipeline.score import ScoreOptions, score_tables
    from undertow.progress import Bars

    options = ScoreOptions(
        estimator,
        layers,
        _names(aggregate),
        None if k is None else numbers(k),
        _names(only),
        weigh,
        trim,
        cut,
        bootstrap,
        resample,
        memory,
        out,
    )
    tables = score_tables(run, options, Bars(Console(stderr=True)))
    console = Console()
    for table in tables:
        print_scores(table, console)
    if figures:
        from undertow.pipeline.score_page import write_score_page

        console.print(f"  {write_score_page(tables)}  figures", markup=False, highlight=False, soft_wrap=True)
    print_next(tables, run, options, console)


def _names(told: str | None) -> tuple[str, ...] | None:
    return None if told is None else names(told)


def print_scores(made: "ScoreTable", console: Console) -> None:
    """Print what decided, the rows with the highest harm, and what is known of their stability."""
    table, scored = made.table, made.scored
    s = scored.scoring
    k = f" (k {s.k:g})" if "k" in AGGREGATIONS[s.aggregate].needs else ""
    queries = f", queries: {', '.join(s.only)}" + (f", weighed {s.weigh}" if s.weigh != "equal" else "")
    console.print()
    console.print(
        f"{s.estimator}, layers {escape(str(s.layers))} ({len(scored.modules)} modules), {s.aggregate}{k}{queries}: "
        f"{int(table['flagged'].sum()):,} of {len(table):,} rows are flagged.",
        style="bold",
        highlight=False,
    )
    if scored.stability is not None:
        share = table.loc[table["flagged"], "flagged_share"]
        console.print(
            f"Of these, {int((share >= 0.9).sum()):,} are flagged in 90% of the resamples or more, and "
            f"{int((share < 0.5).sum()):,} in fewer than half.",
            highlight=False,
        )
    if "planted" in table:
        console.print(_found(made), highlight=False)
    console.print(_worst(made, console.width))


def _found(made: "ScoreTable") -> str:
    """The share of the planted flips among the flagged rows."""
    from undertow.metrics.noise import noise_detection

    planted = made.table["planted"].to_numpy(bool)
    share = noise_detection(made.scored.harm, planted).ndr(made.cut)
    return (
        f"Among the {made.cut:.0%} most harmful rows are {share:.1%} of the {int(planted.sum()):,} planted flips "
        f"(random order: {made.cut:.0%})."
    )


def _worst(made: "ScoreTable", width: int) -> Table:
    from undertow.report.text import clean, label, number

    table = made.table
    shown = Table(
        title=f"The {min(WORST, len(table))} most harmful rows",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    resampled, planted = "flagged_share" in table, "planted" in table
    columns = ["rank", "row", "label", "harm", *(["95% interval", "flagged in"] if resampled else [])]
    for name in [*columns, *(["planted"] if planted else [])]:
        shown.add_column(name, justify="left" if name in ("label", "planted") else "right", no_wrap=True)
    shown.add_column("text")
    for row in table.nsmallest(WORST, "rank").to_dict("records"):
        cells = [str(row["rank"]), str(row["row"]), label(row["label"], min(20, width // 5)), number(row["harm"])]
        if resampled:
            interval = f"{number(row['harm_low'])} to {number(row['harm_high'])}"
            cells += [interval, f"{row['flagged_share']:.0%} of resamples"]
        if planted:
            cells.append("yes" if row["planted"] else "no")
        pair = f" ‖ {row['text_pair']}" if "text_pair" in row else ""
        # Only the text gives way where the terminal is narrow.
        text = Text(clean(" ".join((row["text"] + pair).split())), no_wrap=True, overflow="ellipsis")
        shown.add_row(*(Text(clean(cell)) for cell in cells), text)
    return shown


def print_next(tables: Sequence["ScoreTable"], run: Path, options: "ScoreOptions", console: Console) -> None:
    """Print where the tables are, and what is worth doing with them."""
    for made in tables:
        console.print(f"  {made.path}  every row with its harm", markup=False, highlight=False, soft_wrap=True)
    console.print("Next:", highlight=False)
    steps = []
    if options.bootstrap is None and is_reducible(tables[0].scored.scoring.aggregate):
        steps.append(shlex.join(["undertow", "score", str(run), *_told(replace(options, bootstrap=200, out=None))]))
    path = json.dumps(str(tables[0].path), ensure_ascii=False)  # its double quotes need none of the shell's
    worst = f'import pandas; print(pandas.read_parquet({path}).nsmallest(50, "rank"))'
    steps.append(shlex.join(["python", "-c", worst]))
    for step in steps:
        console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)


def _told(options: "ScoreOptions") -> list[str]:
    """The options of a command line that say the same."""
    told = []
    for name, value in asdict(options).items():
        if value is None or (name, value) in (("trim", 0.1), ("resample", "queries")):
            continue
        shown = [
            f"{v:g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, tuple) else (value,))
        ]
        told += [f"--{name}", ",".join(shown)]
    return told
