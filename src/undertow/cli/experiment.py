"""``undertow experiment``: a study over models, tasks, noise and seeds."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from undertow.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    from undertow.study.experiment import Progress

FAILED = 1


def experiment_command(
    study: Annotated[
        Path | None, typer.Argument(help="YAML file of the study.", metavar="STUDY.YAML", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the study; the name of the file without .yaml unless given.", metavar="FOLDER"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Write a study to start from: paper or small.", metavar="NAME")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show where the study stands, and compute nothing.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try cells again that failed before.")] = False,
    launcher: Annotated[
        str | None,
        typer.Option(help="Submit the cells as jobs: slurm, or local for processes of this machine.", metavar="HOW"),
    ] = None,
) -> None:
    """Plant noise, fine-tune, compute influence, aggregate, filter, retrain and measure, over a grid.

    Finished parts are kept: killed anywhere, the same command goes on, and a changed cut trains again and nothing
    before it. Ends with 0 when all cells are done, 1 when some failed.
    """
    if template is not None:
        _write_template(template, study)
        return
    if study is None:
        raise ConfigError("undertow experiment takes the YAML file of a study. --template small writes one.")

    from undertow.progress import Bars
    from undertow.study.experiment import experiment, gather, progress
    from undertow.study.reading import read_study

    asked, console = read_study(study), Console()
    folder = out or study.with_suffix("")
    if launcher is not None:
        _submit(asked, folder, launcher, retry, console)
        return
    if status:
        gather(asked, folder) if folder.is_dir() else None
        state = progress(asked, folder)
    else:
        state = experiment(asked, folder, retry=retry, reporter=Bars(Console(stderr=True)))
    print_progress(state, console)
    print_next(state, study, folder, console)
    if state.failed:
        raise typer.Exit(FAILED)


def _write_template(name: str, path: Path | None) -> None:
    from undertow.study.templates import template

    text = template(name)
    if path is None:
        typer.echo(text, nl=False)
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RunFolderError(f"{path} is there already and is not overwritten. Name another file.") from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}. Name another file.") from error
    typer.echo(f"Written: {path}. Look through it, then: undertow experiment {shlex.quote(str(path))}")


def _submit(asked: object, folder: Path, launcher: str, retry: bool, console: Console) -> None:
    from undertow.study.config import Study
    from undertow.study.launching import launch

    assert isinstance(asked, Study)
    if launcher not in ("slurm", "local"):
        raise ConfigError(f"--launcher {launcher} is not known. Known are: slurm, local.")
    jobs = launch(asked, folder.resolve(), "slurm" if launcher == "slurm" else "local", retry=retry)
    for job in jobs:
        console.print(f"  {job.id}  {job.cell.label}", markup=False, highlight=False)
    console.print(
        f"{len(jobs)} jobs are submitted; the same command with --status in place of --launcher follows them."
        if jobs
        else "Nothing is left to submit.",
        highlight=False,
    )


def print_progress(state: "Progress", console: Console) -> None:
    """Print the grid: models and tasks by noise, with what is done, failed, at work and to come."""
    everything = [*state.done, *state.failed, *state.running, *state.pending]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for name in ("model", "task", "noise"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "failed", "at work", "to come"):
        table.add_column(name, justify="right", no_wrap=True)
    lines = dict.fromkeys((c.model, c.task.name, c.noise.label) for c in everything)
    for line in sorted(lines):
        counts = [
            sum((c.model, c.task.name, c.noise.label) == line for c in group)
            for group in (state.done, state.failed, state.running, state.pending)
        ]
        table.add_row(*(escape(part) for part in line), *(str(n) if n else "–" for n in counts))
    console.print(table)
    for cell, told in state.failed.items():
        console.print(f"{cell.label}: {told}", markup=False, highlight=False, style="red")


def print_next(state: "Progress", study: Path, folder: Path, console: Console) -> None:
    """Print how far the study is, the time left, and what to do next."""
    from undertow.report.text import duration

    total = len(state.done) + len(state.failed) + len(state.running) + len(state.pending)
    left = "" if state.seconds is None or not (state.pending or state.running) else f", {duration(state.seconds)} left"
    console.print(f"{len(state.done)} of {total} cells are done{left}.", highlight=False)
    command = ["undertow", "experiment", str(study)]
    if folder != study.with_suffix(""):
        command += ["--out", str(folder)]
    if state.failed:
        console.print(
            f"  {shlex.join([*command, '--retry'])}   tries failed cells again", markup=False, highlight=False
        )
    elif state.pending:
        console.print(f"  {shlex.join(command)}   goes on", markup=False, highlight=False)
    if state.done:
        for name in ("tables", "figures"):
            line = shlex.join(["undertow", name, str(folder)])
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  {folder / 'results.parquet'}   every measure of every cell", markup=False, highlight=False)
