"""The ``undertow`` command, started as a script or as ``-m undertow``, in one process or in several."""

import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Annotated

import typer

from undertow.cli.audit import audit_command
from undertow.cli.compare import compare_command
from undertow.cli.decide import decide_command, restore_command
from undertow.cli.demo import demo_command
from undertow.cli.experiment import experiment_command
from undertow.cli.figures import figures_command
from undertow.cli.layers import layers_command
from undertow.cli.plan import plan_command
from undertow.cli.sample import sample_command
from undertow.cli.score import score_command
from undertow.cli.tables import tables_command
from undertow.errors import UndertowError
from undertow.pipeline.ranks import current_ranks
from undertow.pipeline.settings import REMEDIES

INTERRUPTED = 130
# Seconds within which a launcher ends all processes when one has failed.
PATIENCE = 10.0

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
app.command("score")(score_command)
app.command("layers")(layers_command)
app.command("compare")(compare_command)
app.command("experiment")(experiment_command)
app.command("tables")(tables_command)
app.command("figures")(figures_command)
app.command("decide")(decide_command)
app.command("restore")(restore_command)
app.command("sample")(sample_command)
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
    """Entry point; of several processes, the first one speaks.

    What another one has to say of a failure comes late: where the first failed likewise and said so, the launcher has
    ended the others by then.
    """
    if current_ranks().first:
        _run()
        return
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            _run()
    except SystemExit as end:
        if end.code not in (None, 0, INTERRUPTED):
            time.sleep(PATIENCE)
            sys.stderr.write(said.getvalue())
        raise


def _run() -> None:
    """Run the command: errors that a user can mend are one paragraph and exit code 2."""
    with _hearing() as interrupted:
        try:
            app(args=with_values(sys.argv[1:]))
        except BaseException as end:
            if isinstance(end, UndertowError) and not interrupted.is_set():
                typer.echo(f"undertow: {end}", err=True)
                sys.exit(end.exit_code)
            # Where it was compiled code that was interrupted, such as a module being imported, another exception
            # than KeyboardInterrupt may come out, and be taken for an error of the user's.
            code = end.code if isinstance(end, SystemExit) else 1
            if code in (None, 0) or not (interrupted.is_set() or code == INTERRUPTED):
                raise
            logging.getLogger("asyncio").disabled = True  # which would tell of the reads that nobody waits for now
            typer.echo("undertow: interrupted. The same command goes on where this one stopped.", err=True)
            sys.exit(INTERRUPTED)


def with_values(arguments: list[str]) -> list[str]:
    """Arguments in which --retrain has a value: all remedies where none is named, as no option of typer can say."""
    found = []
    for place, argument in enumerate(arguments):
        found.append(argument)
        following = arguments[place + 1] if place + 1 < len(arguments) else "--"
        if argument == "--retrain" and following.startswith("-"):
            found.append(",".join(REMEDIES))
    return found


@contextmanager
def _hearing() -> Iterator[threading.Event]:
    """Whether the user has interrupted the command, whatever became of the exception it raises."""
    heard = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield heard  # a caller has its own way with signals
        return

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        heard.set()
        signal.default_int_handler(signal_number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)
