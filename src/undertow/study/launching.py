"""Cells as jobs of a cluster, or of several processes on this machine, through submitit."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from undertow.errors import ConfigError
from undertow.progress import Silent
from undertow.study.cells import Cell, cells
from undertow.study.config import Study
from undertow.study.experiment import attempt, found, is_held, kept_study, lock_of
from undertow.study.marks import failure, is_done

Launcher = Literal["slurm", "local"]
LOGS = "jobs"
# Which job of a cell was submitted last.
JOB = "job.json"
_ALIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "CONFIGURING")
# Jobs that a cluster runs of one study at a time, unless its slurm: says otherwise.
AT_ONCE = 16


@dataclass(frozen=True)
class Job:
    """A submitted cell.

    Attributes:
        cell: what it computes.
        id: what the cluster calls it.
        handle: submitit's own object.
    """

    cell: Cell
    id: str
    handle: Any


def launch(study: Study, out: Path, launcher: Launcher, *, retry: bool = False) -> list[Job]:
    """Submit a job for every cell that is not done and has none. They outlive this process; ``--status`` follows them.

    Raises:
        ConfigError: when submitit is not installed, there is no such cluster, or it refuses the resources.
        RunFolderError: when the folder is of something else.
    """
    submitit = _library()
    found(out, study)
    todo = [c for c in cells(study) if not is_done(c, out) and (retry or failure(c, out) is None)]
    todo = [c for c in todo if not has_job(c, out)]
    if not todo:
        return []
    resources = {"slurm_array_parallelism": AT_ONCE} if launcher == "slurm" else {}
    try:
        executor = submitit.AutoExecutor(folder=str(out / LOGS), cluster=launcher)
        executor.update_parameters(name=study.name, **{**resources, **(study.slurm if launcher == "slurm" else {})})
        with executor.batch():
            handles = [executor.submit(job, str(out), cell.key) for cell in todo]
    except Exception as error:  # submitit raises its own kinds, and those of the commands it calls
        why = str(error).strip() or type(error).__name__
        raise ConfigError(
            f"The jobs cannot be submitted through --launcher {launcher}: {why}. "
            "slurm: in the study takes the parameters of submitit (timeout_min, mem_gb, gpus_per_node, "
            "slurm_partition, …); sbatch must be there."
        ) from error
    jobs = [Job(cell, str(handle.job_id), handle) for cell, handle in zip(todo, handles, strict=True)]
    for one in jobs:
        _note(one, out, launcher)
    return jobs


def has_job(cell: Cell, out: Path) -> bool:
    """Whether a job that was submitted before still waits or works at a cell."""
    try:
        told = json.loads((cell.folder(out) / JOB).read_text())
    except (OSError, ValueError):
        return False
    if told["launcher"] == "slurm":  # it may wait for hours before it holds the lock of the cell
        return is_queued(told["id"])
    return psutil.pid_exists(int(told["id"])) and is_held(cell, out)


def is_queued(job: str) -> bool:
    """Whether SLURM has a job that waits or runs. Asked of its queue: submitit asks the accounting, which few small
    clusters have.

    Raises:
        ConfigError: when the queue cannot be asked.
    """
    try:
        asked = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"Whether job {job} still waits or runs cannot be asked: squeue does not answer ({error}). A cell is not "
            "submitted twice, so try again where SLURM's commands work."
        ) from error
    if told.returncode:
        if "Invalid job id" in told.stderr:  # the queue has forgotten it, so it has ended
            return False
        raise ConfigError(
            f"Whether job {job} still waits or runs cannot be asked: squeue says {' '.join(told.stderr.split())}. "
            "A cell is not submitted twice, so try again when SLURM answers."
        )
    return bool(set(told.stdout.split()) & set(_ALIVE))


def _note(one: Job, out: Path, launcher: Launcher) -> None:
    path = one.cell.folder(out) / JOB
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"launcher": launcher, "id": one.id}))


def job(out: str, key: str) -> str:
    """What a job does: one cell of the study in a folder, unless another process is at it."""
    folder = Path(out)
    cell = next((c for c in cells(kept_study(folder)) if c.key == key), None)
    if cell is None:
        raise ConfigError(
            f"{key} is no cell of the study in {folder} any more: the study, or a file of its data or models, changed "
            "after the job was submitted. Submit the study again."
        )
    with lock_of(cell, folder):
        if not is_done(cell, folder):
            attempt(cell, folder, Silent())
    return cell.label


def wait(jobs: Sequence[Job]) -> None:
    """Wait until all jobs have ended, however."""
    for one in jobs:
        one.handle.wait()


def _library() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "--launcher needs submitit, which is not installed here. Install it with: pip install 'undertow[cluster]'"
        ) from error
    return submitit
