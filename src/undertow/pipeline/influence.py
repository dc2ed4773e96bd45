"""The influence stage: gradients of queries and samples, and the tensor that estimators make of them."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from undertow.aggregation.queries import Queries, counted_queries
from undertow.baselines.registry import check_labels
from undertow.data import Samples, encode
from undertow.errors import ConfigError
from undertow.gradients.collect import predictions
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.matrices import SparseGradients
from undertow.gradients.store import GradientStore
from undertow.influence.compute import Checkpoint, compute_influence
from undertow.influence.moments import Moments
from undertow.influence.names import needing
from undertow.influence.scores import ScoreWriter
from undertow.influence.store import ROW, InfluenceWriter, influence_dataset, open_influence
from undertow.influence.words import word_dataset
from undertow.models.groups import select_modules
from undertow.models.loading import weights_fingerprint
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.pipeline.baselines import annotations, baseline_harms, check_room, training_margins
from undertow.pipeline.cancellation import keep_cancellation
from undertow.pipeline.coverage import coverage
from undertow.pipeline.gradients import Job, Places, forget_trail, memory_budget, take_gradients, take_trail
from undertow.pipeline.ranks import Ranks, alone
from undertow.pipeline.recorded import optimiser_moments, recorded_training
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import device_of, modes_kept
from undertow.pipeline.writing import FINGERPRINT, fingerprint, open_writer
from undertow.progress import Reporter, Silent, Stopwatch


def influence_step(
    model: nn.Module,
    tokenizer: Any,
    train: Samples,
    queries: Samples,
    settings: AuditSettings,
    *,
    canaries: np.ndarray | None = None,
    control: np.ndarray | None = None,
    places: Places | None = None,
    ranks: Ranks | None = None,
    reporter: Reporter | None = None,
    spent: Stopwatch | None = None,
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
        canaries: positions of the rows that stand in ``train`` twice: as they are, and at its end, in this order, with
            the label that they were trained on. A baseline that compares rows sees each once.
        control: what each training sample is (`undertow.influence.store.ROW`, `CANARY`, `ANCHOR`, in this order); all
            are the user's rows by default. Control rows are scored, and enter nothing that is said of other rows.
        places: where files go; None keeps all in memory.
        ranks: which of several processes this is; then ``places`` are folders that all of them see.
        reporter: shows progress.
        spent: takes the seconds of the gradients, which serve all, and of each estimator and baseline. Of several
            processes, each takes its own.

    Raises:
        TrainingError: where a loss or an influence is not finite.
        ModelError: when nothing in the model can be tracked.
        ConfigError: when the needs of an estimator or baseline are not met, or gradients do not fit into memory.
        DataError: when the labels do not allow a baseline.
    """
    where, me = places or Places(), ranks or Ranks()
    if me.count > 1 and not (where.tensor and where.gradients):
        raise ConfigError(f"{me.count} processes exchange gradients and influence through files. Pass places= to them.")
    check_labels(settings.baselines, train.labels, queries.labels)
    margins = training_margins(settings.baselines, where.dynamics, len(train))
    annotators = annotations(settings.baselines, train)
    model = model.to(device_of(settings, me.local))
    modules = modules_of(model, settings)
    encoded = [encode(side, tokenizer, settings.max_length) for side in (queries, train)]
    pad_id = tokenizer.pad_token_id
    layouts = plan_layouts(model, modules, encoded[1], pad_id=pad_id, project=settings.project, seed=settings.seed)
    check_room(settings.baselines, layouts, max(len(train), len(queries)), memory_budget(settings))
    weights, show, watch = weights_fingerprint(model), reporter or Silent(), spent or Stopwatch()
    rows = len(train) if control is None else int((control == ROW).sum())
    job = Job(model, weights, modules, layouts, encoded[0], encoded[1], pad_id, settings, where, me, show, rows)
    moments = optimiser_moments(model, modules, settings, where.recorded)
    records = recorded_training(settings, where.recorded) if needing(settings.estimators, "checkpoints") else ()
    covered = coverage(modules, settings.estimators, moments)
    frame = influence_dataset(settings.estimators, [t.key for t in modules], queries.rows, train.rows, covered, control)
    frame.attrs[FINGERPRINT] = fingerprint(frame, settings, weights, encoded, records)
    # Means of layer groups add up over the modules, so one process makes them.
    sharing = Ranks() if settings.keep == "groups" else me
    with modes_kept(model):
        with watch.on("gradients"):
            stores = take_gradients(job, "gradients", where.gradients)
        known = known_queries(stores[0], queries)
        with watch.on("tracincp") if records else nullcontext():
            trail = take_trail(job, records)
        if me.first or sharing is me:
            writer = sharing.first_then(lambda: open_writer(frame, where.tensor, settings, known, train.labels))
            _products(replace(job, ranks=sharing), stores, trail, moments, writer, watch)
    me.wait()
    if not me.first and where.tensor is not None:
        me.wait()
        return open_influence(where.tensor)
    with watch.on("cancellation") if settings.cancellation != "none" else nullcontext():
        keep_cancellation(stores[1], where.tensor, frame.attrs[FINGERPRINT], settings.cancellation, show)
    of_queries, of_samples = (predictions(store) for store in stores)
    variables = xr.Dataset(
        {
            "query_loss": ("query", of_queries.loss),
            "query_correct": ("query", known.correct),
            "query_label": ("query", queries.labels),
            "query_probability": (("query", "class"), of_queries.probabilities),
            "sample_label": ("sample", train.labels),
            "sample_loss": ("sample", of_samples.loss),
            "sample_probability": (("sample", "class"), of_samples.probabilities),
            "queries_truncated": encoded[0].truncated,
            "samples_truncated": encoded[1].truncated,
        },
        coords={"class": np.array(train.classes, dtype=str)},
    )
    variables = xr.merge(
        [variables, _words(job, stores, known), _baselines(job, stores, margins, annotators, canaries, watch)]
    )
    influence = writer.finish(variables)
    forget_trail(trail)
    me.wait()
    return influence


def modules_of(model: nn.Module, settings: AuditSettings) -> tuple[TrackedModule, ...]:
    """The modules to take gradients of: all that are tracked, or with ``fast`` those that decide."""
    modules = tracked_modules(model, settings.track)
    if not settings.fast:
        return modules
    return tuple(modules[m] for m in select_modules([t.key for t in modules], settings.layers))


def known_queries(store: GradientStore, queries: Samples) -> Queries:
    """What aggregations may know of the queries."""
    found = predictions(store)
    correct: np.ndarray = found.probabilities.argmax(1) == queries.labels
    return Queries(len(queries), queries.labels, correct, np.exp(-found.loss.astype(np.float64)), None, queries.classes)


def _baselines(
    job: Job,
    stores: tuple[GradientStore, GradientStore],
    margins: np.ndarray | None,
    annotators: tuple[np.ndarray, np.ndarray] | None,
    canaries: np.ndarray | None,
    watch: Stopwatch,
) -> xr.Dataset:
    return baseline_harms(
        job.settings.baselines,
        job.model,
        stores,
        (job.queries, job.samples),
        (predictions(stores[0]), predictions(stores[1])),
        pad_id=job.pad_id,
        seed=job.settings.seed,
        annotators=annotators,
        margins=margins,
        canaries=canaries,
        rows=job.rows,
        memory=memory_budget(job.settings),
        show=job.show,
        spent=watch,
    )


def _words(job: Job, stores: tuple[GradientStore, GradientStore], known: Queries) -> xr.Dataset:
    """What each word contributes, of the queries that decide; nothing where word embeddings are not tracked."""
    for m in range(len(job.modules)):
        queries, samples = (store[m] for store in stores)
        if isinstance(queries, SparseGradients) and isinstance(samples, SparseGradients):
            chosen = counted_queries(known, [name for name in job.settings.counted if name == "correct"] or ["all"])
            return word_dataset(queries, samples, torch.from_numpy(chosen))
    return xr.Dataset()


def _products(
    job: Job,
    stores: tuple[GradientStore, GradientStore],
    trail: list[Checkpoint],
    moments: Mapping[str, Moments],
    writer: InfluenceWriter | ScoreWriter,
    watch: Stopwatch,
) -> None:
    """Every estimator on every module; several processes share the modules."""
    written = set(writer.written)
    mine = [m for m in range(len(job.modules)) if m % job.ranks.count == job.ranks.index and m not in written]
    given = {}
    if "ekfac" in job.settings.estimators:
        with watch.on("ekfac"):
            given["ekfac"] = _ekfac(job, mine)
    with job.show.track("influence of the modules", len(mine)) as advance:
        compute_influence(
            *stores,
            job.settings.estimators,
            writer,
            rows=job.rows,
            moments=moments,
            checkpoints=trail,
            given=given,
            modules=mine,
            advance=advance,
            timing=watch.on,
        )


def _ekfac(job: Job, mine: list[int]) -> dict[int, torch.Tensor]:
    from undertow.influence import ekfac

    positions = [m for m in mine if ekfac.covers(job.modules[m])]
    if not positions:
        return {}
    chosen = [job.modules[m] for m in positions]
    scratch = job.places.scratch or job.places.gradients
    with ExitStack() as stack:
        folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="undertow-")))
        total = ekfac.ekfac_rows(chosen, job.queries, job.samples, rows=job.rows)
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
            rows=job.rows,
            advance=advance,
        )
    return {m: found[i] for i, m in enumerate(positions)}
