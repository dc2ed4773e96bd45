"""The ``undertow`` command."""

import sys
from typing import Annotated

import typer

from undertow.cli.audit import audit_command
from undertow.cli.demo import demo_command
from undertow.cli.plan import plan_command
from undertow.errors import UndertowError

INTERRUPTED = 130

app = typer.Typer(
    name="undertow",
    help="Find the training samples that drag a fine-tuned language model down, and clean them out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("audit")(audit_command)
app.command("plan")(plan_command)
app.command("demo")(demo_command)


def _version(asked: bool | None) -> None:
    if asked:
        from undertow import __version__

        typer.echo(f"undertow {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    """Find the training samples that drag a fine-tuned language model down, and clean them out."""


def run() -> None:
    """Entry point: errors that a user can mend are one paragraph and exit code 2."""
    try:
        app()
    except UndertowError as error:
        typer.echo(f"undertow: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:  # typer turns an interrupt into this, without a word
        if end.code == INTERRUPTED:
            typer.echo("undertow: interrupted. The same command goes on where this one stopped.", err=True)
        raise
