"""``undertow layers``: what each layer of a finished run sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from undertow.aggregation.names import (
    AGGREGATION_NAMES,
    ONLY,
    check_aggregation,
    check_queries,
    check_weighing,
)
from undertow.cli.options import Memory, Trim, Weigh, fixed, names

if TYPE_CHECKING:
    from undertow.pipeline.layers import LayerProfile

_AGGREGATIONS = ", ".join(AGGREGATION_NAMES)


def layers_command(
    run: Annotated[Path, typer.Argument(help="Run folder of an audit.", metavar="RUN", show_default=False)],
    estimator: Annotated[
        str | None, typer.Option(help="Estimator of the run; its first unless given.", metavar="NAME")
    ] = None,
    aggregate: Annotated[
        str, typer.Option(help=f"How influences become one harm: {_AGGREGATIONS}.", metavar="HOW")
    ] = "rank",
    k: Annotated[float, typer.Option(help="How many samples vote looks at: a share, or a number.", metavar="K")] = 0.3,
    only: Annotated[
        str, typer.Option(help=f"Which queries count: {', '.join(ONLY)}; several by commas.", metavar="WHICH")
    ] = "all",
    weigh: Weigh = "equal",
    trim: Trim = 0.1,
    memory: Memory = None,
    modules: Annotated[bool, typer.Option("--modules", help="Print every module too.")] = False,
) -> None:
    """Say what each module, layer and layer group of a finished run sees.

    Noise rank and NDR of each on its own where noise was planted, cancellation of its gradients, and agreement of its
    harm with that of all modules. Leaves layers.parquet and layers.html in RUN. Nothing is computed anew.
    """
    chosen = names(only)
    check_aggregation(aggregate, k, trim)
    check_weighing(aggregate, weigh)
    check_queries(chosen, weigh)

    from undertow.pipeline.layer_page import write_layer_page
    from undertow.pipeline.layers import layer_profile
    from undertow.pipeline.scorer import Scoring, memory_bytes
    from undertow.progress import Bars

    asked = Scoring(estimator, aggregate=aggregate, k=k, only=chosen, weigh=weigh, trim=trim)
    profile = layer_profile(run, asked, memory=memory_bytes(memory), reporter=Bars(Console(stderr=True)))
    write_layer_page(profile, run)
    print_layers(profile, run, Console(), modules=modules)


def print_layers(profile: "LayerProfile", run: Path, console: Console, *, modules: bool = False) -> None:
    """Print groups and layers, with ``modules`` every module too, and where the files are."""
    shown = profile.table[profile.table["level"] != "module"] if not modules else profile.table
    noise = profile.planted is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.title = f"What each layer sees by {profile.scoring.estimator}, aggregated by {profile.scoring.aggregate}"
    table.add_column("part", no_wrap=True)
    measures = ("noise rank", "others", "NDR@30", "AUC-NDR") if noise else ()
    for name in ("modules", *measures, "cancellation", "agreement"):
        table.add_column(name, justify="right", no_wrap=" " not in name)
    before = None
    for row in shown.to_dict("records"):
        if before not in (None, row["level"]):
            table.add_section()
        before = row["level"]
        values = [row[c] for c in ("noise_rank", "clean_rank", "ndr30", "auc")] if noise else []
        cells = [fixed(v) for v in values]
        cancelled = fixed(row["cancellation"], 1)
        table.add_row(escape(row["name"]), str(row["modules"]), *cells, cancelled, fixed(row["agreement"]))
    console.print(table)
    if noise:
        console.print(
            f"Noise rank: mean normalised rank of the {profile.planted:,} planted rows, 0 = most detrimental; the "
            "further below that of the others, the better noise shows.",
            highlight=False,
        )
    else:
        console.print("No noise was planted (--plant), so how well each part finds it is not known.", highlight=False)
    console.print("Agreement: Spearman of the harm with that of all modules.", highlight=False)
    for note in profile.notes:
        console.print(f"Note: {escape(note)}", highlight=False)
    for name in ("layers.parquet", "layers.html"):
        console.print(f"Written: {escape(str(run / name))}", highlight=False, soft_wrap=True)
