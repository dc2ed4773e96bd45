"""The influence stage: gradients of queries and samples, and the tensor that estimators make of them."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import xarray as xr
from torch import nn

from undertow.aggregation.additive import chosen_queries
from undertow.data import Encoded, Samples, encode
from undertow.errors import ConfigError
from undertow.gradients.collect import collect_gradients, predictions
from undertow.gradients.layouts import Layout, plan_layouts
from undertow.gradients.matrices import SparseGradients
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.influence.compute import Checkpoint, compute_influence
from undertow.influence.moments import Moments
from undertow.influence.names import needing
from undertow.influence.scores import ScoreWriter
from undertow.influence.store import InfluenceWriter, influence_dataset, open_influence
from undertow.influence.words import word_dataset
from undertow.models.groups import select_modules
from undertow.models.loading import weights_fingerprint
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.pipeline.baselines import baseline_harms
from undertow.pipeline.cancellation import keep_cancellation
from undertow.pipeline.coverage import coverage
from undertow.pipeline.precision import compute_dtype, kept_dtype
from undertow.pipeline.ranks import Ranks, alone
from undertow.pipeline.recorded import optimiser_moments, recorded_training
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import device_of, modes_kept
from undertow.pipeline.writing import FINGERPRINT, fingerprint, open_writer
from undertow.progress import Reporter, Silent
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
class _Job:
    """What the parts of the stage share."""

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


def influence_step(
    model: nn.Module,
    tokenizer: Any,
    train: Samples,
    queries: Samples,
    settings: AuditSettings,
    *,
    places: Places | None = None,
    ranks: Ranks | None = None,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Influence of every training sample on every query, for all tracked modules.

    Returns a dataset with ``influence[estimator, module, query, sample]`` (or, as ``settings.keep`` says,
    ``score[estimator, module, sample]``) and, from the same pass, ``sample_loss``,
    ``sample_probability[sample, class]``, ``query_loss`` and ``query_correct``; ``samples_truncated`` and
    ``queries_truncated`` count the texts that were longer than the maximum length. Where word embeddings are
    tracked, ``word_influence``, ``word_token``, ``word_count`` and ``word_sample`` (a position) along ``word`` say what
    each distinct token of each sample contributes, averaged over the queries.

    Args:
        model: a classifier in any state; it is moved to the device, run in eval mode, and left as it was
            otherwise.
        tokenizer: its tokenizer, with a pad token.
        train: training samples.
        queries: trusted samples.
        settings: estimators, what to track, maximum length, device, memory, precision, what to keep.
        places: where files go; None keeps all in memory.
        ranks: which of several processes this is; then ``places`` are folders that all of them see.
        reporter: shows progress.

    Raises:
        TrainingError: where a loss or an influence is not finite.
        ModelError: when nothing in the model can be tracked.
        ConfigError: when an estimator's needs are not met, or gradients do not fit into memory.
    """
    where, me = places or Places(), ranks or Ranks()
    if me.count > 1 and not (where.tensor and where.gradients):
        raise ConfigError(f"{me.count} processes exchange gradients and influence through files. Pass places= to them.")
    model = model.to(device_of(settings, me.local))
    modules = modules_of(model, settings)
    encoded = [encode(side, tokenizer, settings.max_length) for side in (queries, train)]
    pad_id = tokenizer.pad_token_id
    layouts = plan_layouts(model, modules, encoded[1], pad_id=pad_id, project=settings.project, seed=settings.seed)
    weights, show = weights_fingerprint(model), reporter or Silent()
    job = _Job(model, weights, modules, layouts, encoded[0], encoded[1], pad_id, settings, where, me, show)
    moments = optimiser_moments(model, modules, settings, where.recorded)
    records = recorded_training(settings, where.recorded) if needing(settings.estimators, "checkpoints") else ()
    covered = coverage(modules, settings.estimators, moments)
    frame = influence_dataset(settings.estimators, [t.key for t in modules], queries.rows, train.rows, covered)
    frame.attrs[FINGERPRINT] = fingerprint(frame, settings, weights, encoded, records)
    # Means of layer groups add up over the modules, so one process makes them.
    sharing = Ranks() if settings.keep == "groups" else me
    with modes_kept(model):
        stores = _gradients(job, "gradients", where.gradients)
        correct = stores[0].probabilities.argmax(1).numpy() == queries.labels
        trail = _trail(job, records)
        if me.first or sharing is me:
            writer = sharing.first_then(lambda: open_writer(frame, where.tensor, settings, correct))
            _products(replace(job, ranks=sharing), stores, trail, moments, writer)
    me.wait()
    if not me.first and where.tensor is not None:
        me.wait()
        return open_influence(where.tensor)
    keep_cancellation(stores[1], where.tensor, frame.attrs[FINGERPRINT], settings.cancellation, show)
    of_queries, of_samples = (predictions(store) for store in stores)
    variables = xr.Dataset(
        {
            "query_loss": ("query", of_queries.loss),
            "query_correct": ("query", correct),
            "sample_loss": ("sample", of_samples.loss),
            "sample_probability": (("sample", "class"), of_samples.probabilities),
            "queries_truncated": encoded[0].truncated,
            "samples_truncated": encoded[1].truncated,
        }
    )
    variables = xr.merge([variables, _words(job, stores, correct), _baselines(job, stores)])
    influence = writer.finish(variables)
    _forget(trail)
    me.wait()
    return influence


def modules_of(model: nn.Module, settings: AuditSettings) -> tuple[TrackedModule, ...]:
    """The modules to take gradients of: all that are tracked, or with ``fast`` those that decide."""
    modules = tracked_modules(model, settings.track)
    if not settings.fast:
        return modules
    return tuple(modules[m] for m in select_modules([t.key for t in modules], settings.layers))


def _baselines(job: _Job, stores: tuple[GradientStore, GradientStore]) -> xr.Dataset:
    return baseline_harms(
        job.settings.baselines,
        job.model,
        stores,
        (job.queries, job.samples),
        (predictions(stores[0]), predictions(stores[1])),
        pad_id=job.pad_id,
        seed=job.settings.seed,
        dynamics=job.places.dynamics,
        memory=memory_budget(job.settings),
        show=job.show,
    )


def _words(job: _Job, stores: tuple[GradientStore, GradientStore], correct: np.ndarray) -> xr.Dataset:
    """What each word contributes, of the queries that decide; nothing where word embeddings are not tracked."""
    for m in range(len(job.modules)):
        queries, samples = (store[m] for store in stores)
        if isinstance(queries, SparseGradients) and isinstance(samples, SparseGradients):
            chosen = chosen_queries(len(correct), correct if job.settings.correct_only else None)
            return word_dataset(queries, samples, torch.from_numpy(chosen))
    return xr.Dataset()


def _gradients(job: _Job, name: str, folder: Path | None) -> tuple[GradientStore, GradientStore]:
    """Gradients of queries and of samples, from one pass over each."""
    queries = _collected(job, f"{name} of the queries", job.queries, folder and folder / "queries")
    samples = _collected(job, f"{name} of the samples", job.samples, folder and folder / "samples")
    return queries, samples


def _collected(job: _Job, name: str, encoded: Encoded, folder: Path | None) -> GradientStore:
    settings, dtype = job.settings, kept_dtype(job.settings)
    budget = memory_budget(settings)
    if folder is None and job.places.scratch and stored_bytes(job.layouts, encoded, dtype) > budget:
        folder = job.places.scratch / name.replace(" ", "-")
    identity = None
    if folder is not None:
        precision = str(compute_dtype(settings, device_of(settings, job.ranks.local)))
        identity = {"model": job.weights, "pad": job.pad_id, "computed in": precision}

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


def _trail(job: _Job, records: Sequence[Recorded]) -> list[Checkpoint]:
    """Gradients at every recorded checkpoint, for estimators that add them up."""
    found = []
    for record in records:
        place = job.places.gradients or job.places.scratch
        folder = place and place / f"step-{record.step}"
        with record.load_into(job.model):
            then = replace(job, weights=weights_fingerprint(job.model))
            queries, samples = _gradients(then, f"step {record.step}: gradients", folder)
        found.append(Checkpoint(queries, samples, record.mean_learning_rate))
    return found


def _forget(trail: Sequence[Checkpoint]) -> None:
    for folder in [store.folder for c in trail for store in (c.queries, c.samples) if store.folder]:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty yet, or not ours alone
            folder.parent.rmdir()


def _products(
    job: _Job,
    stores: tuple[GradientStore, GradientStore],
    trail: list[Checkpoint],
    moments: Mapping[str, Moments],
    writer: InfluenceWriter | ScoreWriter,
) -> None:
    """Every estimator on every module; several processes share the modules."""
    written = set(writer.written)
    mine = [m for m in range(len(job.modules)) if m % job.ranks.count == job.ranks.index and m not in written]
    given = {"ekfac": _ekfac(job, mine)} if "ekfac" in job.settings.estimators else {}
    with job.show.track("influence of the modules", len(mine)) as advance:
        compute_influence(
            *stores,
            job.settings.estimators,
            writer,
            moments=moments,
            checkpoints=trail,
            given=given,
            modules=mine,
            advance=advance,
        )


def _ekfac(job: _Job, mine: list[int]) -> dict[int, torch.Tensor]:
    from undertow.influence import ekfac

    positions = [m for m in mine if ekfac.covers(job.modules[m])]
    if not positions:
        return {}
    chosen = [job.modules[m] for m in positions]
    scratch = job.places.scratch or job.places.gradients
    with ExitStack() as stack:
        folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="undertow-")))
        total = ekfac.ekfac_rows(chosen, job.queries, job.samples)
        advance = stack.enter_context(job.show.track("EK-FAC", total))
        stack.enter_context(alone())  # each process fits its own modules
        found = ekfac.ekfac_influence(
            job.model,
            chosen,
            job.queries,
            job.samples,
            pad_id=job.pad_id,
            scratch=folder,
            seed=job.settings.seed,
            advance=advance,
        )
    return {m: found[i] for i, m in enumerate(positions)}


def memory_budget(settings: AuditSettings) -> int:
    """Bytes that gradients in memory may take: as told, or half of what is free."""
    return psutil.virtual_memory().available // 2 if settings.memory is None else int(settings.memory * 1e9)
