"""The gradients of a run: where they are put, who takes which part, and those of recorded checkpoints."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from torch import nn

from undertow.data import Encoded
from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import Layout
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.influence.compute import Checkpoint
from undertow.models.loading import weights_fingerprint
from undertow.models.modules import TrackedModule
from undertow.pipeline.precision import compute_dtype, kept_dtype
from undertow.pipeline.ranks import Ranks
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import device_of
from undertow.progress import Reporter
from undertow.training.checkpoints import Recorded


@dataclass(frozen=True)
class Places:
    """Where the influence stage puts things; all None keeps everything in memory.

    Attributes:
        tensor: zarr store of the result; ``cancellation.parquet`` goes beside it.
        gradients: folder of the gradient cache.
        scratch: folder for what is of no use afterwards.
        recorded: folder of a training's recorded checkpoints.
        dynamics: file of the margins during a training.
    """

    tensor: Path | None = None
    gradients: Path | None = None
    scratch: Path | None = None
    recorded: Path | None = None
    dynamics: Path | None = None


@dataclass(frozen=True)
class Job:
    """What the parts of the stage share; the first ``rows`` samples are the user's, those behind them control rows."""

    model: nn.Module
    weights: str
    modules: tuple[TrackedModule, ...]
    layouts: tuple[Layout, ...]
    queries: Encoded
    samples: Encoded
    pad_id: int
    settings: AuditSettings
    places: Places
    ranks: Ranks
    show: Reporter
    rows: int


def take_gradients(job: Job, name: str, folder: Path | None) -> tuple[GradientStore, GradientStore]:
    """Gradients of queries and of samples, from one pass over each."""
    queries = _collected(job, f"{name} of the queries", job.queries, folder and folder / "queries")
    samples = _collected(job, f"{name} of the samples", job.samples, folder and folder / "samples")
    return queries, samples


def _collected(job: Job, name: str, encoded: Encoded, folder: Path | None) -> GradientStore:
    settings, dtype = job.settings, kept_dtype(job.settings)
    budget = memory_budget(settings)
    if folder is None and job.places.scratch and stored_bytes(job.layouts, encoded, dtype) > budget:
        folder = job.places.scratch / name.replace(" ", "-")
    identity = None
    if folder is not None:
        precision = str(compute_dtype(settings, device_of(settings, job.ranks.local)))
        identity = {"model": job.weights, "pad": job.pad_id, "computed in": precision, "loss in": "float64"}

    def store() -> GradientStore:
        return GradientStore(job.layouts, encoded, folder=folder, memory=budget, dtype=dtype, identity=identity)

    found = job.ranks.first_then(store)
    mine = 0

    def count(rows: int) -> None:
        nonlocal mine
        mine += rows
        advance(rows)

    with job.show.track(name, len(encoded)) as advance:
        collect_gradients(
            job.model,
            job.modules,
            encoded,
            found,
            pad_id=job.pad_id,
            part=(job.ranks.index, job.ranks.count),
            autocast=compute_dtype(settings, device_of(settings, job.ranks.local)),
            advance=count,
            say=job.show.say,
        )
        job.ranks.wait()
        advance(len(encoded) - mine)
    return found if job.ranks.count == 1 else store()


def take_trail(job: Job, records: Sequence[Recorded]) -> list[Checkpoint]:
    """Gradients at every recorded checkpoint, for estimators that add them up."""
    found = []
    for record in records:
        place = job.places.gradients or job.places.scratch
        folder = place and place / f"step-{record.step}"
        with record.load_into(job.model):
            then = replace(job, weights=weights_fingerprint(job.model))
            queries, samples = take_gradients(then, f"step {record.step}: gradients", folder)
        found.append(Checkpoint(queries, samples, record.mean_learning_rate))
    return found


def forget_trail(trail: Sequence[Checkpoint]) -> None:
    """Delete the files of gradients at recorded checkpoints."""
    for folder in [store.folder for c in trail for store in (c.queries, c.samples) if store.folder]:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty yet, or not ours alone
            folder.parent.rmdir()


def memory_budget(settings: AuditSettings) -> int:
    """Bytes that gradients in memory may take: as told, or half of what is free."""
    return psutil.virtual_memory().available // 2 if settings.memory is None else int(settings.memory * 1e9)
