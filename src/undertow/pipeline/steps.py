"""The steps of an audit, each callable alone with objects in memory."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from undertow.data import Samples, encode
from undertow.gradients.collect import collect_gradients, predict
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.loading import prepare_tokenizer
from undertow.models.modules import tracked_modules
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter, Silent
from undertow.training.finetune import Finetuned, fine_tune, forget_checkpoints, training_steps
from undertow.training.lora import attach_lora

# Gives a fresh model at the common starting point of all fine-tunings.
ModelFactory = Callable[[], nn.Module]


@dataclass(frozen=True)
class Start:
    """Where all fine-tunings of an audit start.

    Attributes:
        base: makes the model anew without an adapter.
        make: makes the model anew with fresh LoRA; equal weights at every call.
        tokenizer: its tokenizer, with a pad token.
    """

    base: ModelFactory
    make: ModelFactory
    tokenizer: Any


def start_from(base: ModelFactory, tokenizer: Any, settings: AuditSettings) -> Start:
    """A start from a function that makes a classifier without an adapter."""
    return Start(base, lambda: adapt(base(), settings), tokenizer)


def start_in_memory(model: nn.Module, tokenizer: Any, settings: AuditSettings) -> Start:
    """A start from a classifier in memory: copies of it as it is now, an adapter of its own taken off."""
    pristine = copy.deepcopy(model)
    if hasattr(pristine, "peft_config"):
        pristine = pristine.unload()  # type: ignore[operator]
    prepare_tokenizer(pristine, tokenizer)
    return start_from(lambda: copy.deepcopy(pristine), tokenizer, settings)


def adapt(model: nn.Module, settings: AuditSettings) -> nn.Module:
    """Put fresh LoRA on a classifier, as the settings say; the same seed gives the same adapter."""
    return attach_lora(
        model,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.target_modules,
        seed=settings.seed,
    )


def fine_tune_step(
    start: Start,
    train: Samples,
    selection: Samples,
    settings: AuditSettings,
    *,
    folder: Path,
    name: str = "fine-tuning",
    reporter: Reporter | None = None,
) -> Finetuned:
    """Fine-tune LoRA on ``train``, keeping the epoch of lowest loss on ``selection``.

    ``folder`` holds checkpoints while it runs: the same call goes on where an interrupted one stopped. It
    is removed at the end.

    Raises:
        TrainingError: when the loss is NaN or infinite.
    """
    encoded = encode(train, start.tokenizer, settings.max_length)
    with (reporter or Silent()).track(name, training_steps(len(train), settings)) as advance:
        tuned = fine_tune(
            start.make(),
            encoded,
            encode(selection, start.tokenizer, settings.max_length),
            settings,
            pad_id=start.tokenizer.pad_token_id,
            folder=folder,
            device=device_of(settings),
            advance=advance,
        )
    forget_checkpoints(folder)
    return tuned


def influence_step(
    model: nn.Module,
    tokenizer: Any,
    train: Samples,
    queries: Samples,
    settings: AuditSettings,
    *,
    path: Path | None = None,
    scratch: Path | None = None,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Influence of every training sample on every query, for all tracked modules.

    Returns a dataset with ``influence[estimator, module, query, sample]`` and, from the same pass,
    ``sample_loss``, ``sample_probability[sample, class]``, ``query_loss`` and ``query_correct``.

    Args:
        model: a classifier in any state; it is run in eval mode and left as it was otherwise.
        tokenizer: its tokenizer, with a pad token.
        train: training samples.
        queries: trusted samples.
        settings: estimators, maximum length, device, memory.
        path: zarr store to write; None keeps the tensor in memory.
        scratch: folder for gradients that do not fit into memory.
        reporter: shows progress.

    Raises:
        TrainingError: where a loss is not finite.
        ModelError: when nothing in the model can be tracked.
    """
    show = reporter or Silent()
    model = model.to(device_of(settings))
    modules = tracked_modules(model)
    keys = [t.key for t in modules]
    stores, predictions = [], []
    for name, samples in (("gradients of the queries", queries), ("gradients of the samples", train)):
        memory = None if settings.memory is None else int(settings.memory * 1e9)
        folder = scratch / name.rsplit(" ", 1)[-1] if scratch else None
        store = GradientStore(keys, len(samples), folder=folder, memory=memory)
        encoded = encode(samples, tokenizer, settings.max_length)
        with show.track(name, len(samples)) as advance:
            found = collect_gradients(model, modules, encoded, store, pad_id=tokenizer.pad_token_id, advance=advance)
        stores.append(store)
        predictions.append(found)
    frame = influence_dataset(settings.estimators, keys, queries.rows, train.rows)
    writer = InfluenceWriter(frame, path)
    with show.track("influence of the modules", len(keys)) as advance:
        compute_influence(stores[0], stores[1], settings.estimators, writer, advance=advance)
    of_queries, of_samples = predictions
    return writer.finish(
        xr.Dataset(
            {
                "query_loss": ("query", of_queries.loss),
                "query_correct": ("query", of_queries.predicted == queries.labels),
                "sample_loss": ("sample", of_samples.loss),
                "sample_probability": (("sample", "class"), of_samples.probabilities),
            }
        )
    )


def predict_step(
    model: nn.Module,
    tokenizer: Any,
    samples: Samples,
    settings: AuditSettings,
    *,
    name: str = "predictions",
    reporter: Reporter | None = None,
) -> np.ndarray:
    """Predicted class of each sample, [n]."""
    encoded = encode(samples, tokenizer, settings.max_length)
    model = model.to(device_of(settings))
    with (reporter or Silent()).track(name, len(samples)) as advance:
        return predict(model, encoded, pad_id=tokenizer.pad_token_id, advance=advance).predicted


def device_of(settings: AuditSettings) -> str:
    """The torch device the settings ask for."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"
