"""``undertow compare``: the estimators, layers and aggregations of a finished run side by side."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from undertow.aggregation.names import (
    AGGREGATION_NAMES,
    AGGREGATIONS,
    ONLY,
    check_aggregation,
    check_queries,
    check_weighing,
)
from undertow.cli.options import Memory, Trim, Weigh, fixed, names, numbers

if TYPE_CHECKING:
    from undertow.pipeline.compare import Comparison

_DEFAULT = ",".join(name for name, known in AGGREGATIONS.items() if known.form != "order")


def compare_command(
    run: Annotated[Path, typer.Argument(help="Run folder of an audit.", metavar="RUN", show_default=False)],
    estimator: Annotated[
        str | None, typer.Option(help="Estimators of the run, joined by commas; all unless given.", metavar="NAME")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Choices of layers as in undertow audit, separated by commas, parts of one joined by a plus "
            "(att1,att3+head); the standard groups unless given.",
            metavar="GROUPS",
        ),
    ] = None,
    aggregate: Annotated[
        str, typer.Option(help=f"Aggregations, joined by commas: {', '.join(AGGREGATION_NAMES)}.", metavar="HOW")
    ] = _DEFAULT,
    k: Annotated[
        str, typer.Option(help="How many samples vote looks at: shares, or numbers; joined by commas.", metavar="K")
    ] = "0.3",
    only: Annotated[
        str, typer.Option(help=f"Which queries count: {', '.join(ONLY)}; join by commas.", metavar="WHICH")
    ] = "all",
    weigh: Weigh = "equal",
    trim: Trim = 0.1,
    memory: Memory = None,
    resamples: Annotated[
        int, typer.Option(help="Resamples behind the interval of AUC-NDR; 0 for none.", metavar="TIMES", min=0)
    ] = 200,
    top: Annotated[
        int, typer.Option(help="Rows to print, beside the baselines; 0 for all.", metavar="ROWS", min=0)
    ] = 20,
) -> None:
    """Compare every estimator, layer group and aggregation of a finished run, best first.

    By the planted noise they find where noise was planted, else by how far they agree; beside the loss and the other
    baselines of the run. Leaves compare.parquet and compare.html in RUN. No model is loaded.
    """
    hows, shares, queries = names(aggregate), numbers(k), names(only)
    for how in hows:
        for share in shares:
            check_aggregation(how, share, trim)
        check_weighing(how, weigh)
    check_queries(queries, weigh)

    from undertow.pipeline.compare import CompareOptions, compare_run
    from undertow.pipeline.compare_page import write_compare_page
    from undertow.pipeline.scorer import memory_bytes
    from undertow.progress import Bars

    options = CompareOptions(
        names(estimator), names(layers), hows, shares, queries, weigh, trim, memory_bytes(memory), resamples
    )
    found = compare_run(run, options, reporter=Bars(Console(stderr=True)))
    write_compare_page(found, run)
    print_comparison(found, run, Console(), top=top)


def print_comparison(found: "Comparison", run: Path, console: Console, *, top: int = 20) -> None:
    """Print the best ``top`` choices and every baseline, best first (0: all choices), and where the files are."""
    influence = found.table["kind"] == "influence"
    shown = found.table[~influence | (influence.cumsum() <= (top or len(influence)))]
    known = found.planted is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.title = "Planted noise found, best first" if known else "Agreement of the choices, highest first"
    for name in ("score", "layers", "aggregation"):
        table.add_column(name, no_wrap=True)
    measures = ("NDR@10", "NDR@20", "NDR@30", "AUC-NDR", "95% interval") if known else ("with others", "with loss")
    for name in measures:
        table.add_column(name, justify="right")
    for row in shown.to_dict("records"):
        how = row["aggregate"] + ("" if math.isnan(row["k"]) else f" k={row['k']:g}")
        cells = _noise_cells(row) if known else [fixed(row[c]) for c in ("agreement", "agreement_loss")]
        style = None if row["kind"] == "influence" else "bold"
        table.add_row(escape(row["estimator"]), escape(row["layers"]), how, *cells, style=style)
    console.print(table)
    hidden = len(found.table) - len(shown)
    if hidden:
        console.print(f"{hidden:,} more are in the table; --top 0 prints all.", highlight=False)
    if known:
        said = "The best of many is chosen by the noise it is measured on, so its value is somewhat high by chance."
    else:
        said = "No noise was planted (--plant), so none is known to be better: agreement is no proof of quality."
    console.print(said, highlight=False)
    for note in found.notes:
        console.print(f"Note: {escape(note)}", highlight=False)
    for name in ("compare.parquet", "compare.html"):
        console.print(f"Written: {run / name}", markup=False, highlight=False, soft_wrap=True)


def _noise_cells(row: dict[Any, Any]) -> list[str]:
    values = [fixed(row[c]) for c in ("ndr10", "ndr20", "ndr30", "auc")]
    low, high = row["auc_low"], row["auc_high"]
    return [*values, "–" if math.isnan(low) else f"{low:.2f}-{high:.2f}"]
