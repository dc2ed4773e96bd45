"""The steps of an audit, each callable alone with objects in memory."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from undertow.data import Samples, encode
from undertow.errors import ConfigError, ModelError
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
    """A start from a classifier in memory: copies of it as it is now, an adapter of its own taken off.

    Raises:
        ModelError: when model and tokenizer do not go together.
    """
    pristine, own_tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
    prepare_tokenizer(pristine, own_tokenizer)
    return start_from(lambda: _without_adapter(copy.deepcopy(pristine)), own_tokenizer, settings)


def _without_adapter(model: nn.Module) -> nn.Module:
    """Take a PEFT adapter off in place, with the head that was trained along with it."""
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

    if not hasattr(model, "peft_config"):
        return model
    if not isinstance(model, PeftModel):
        raise ModelError(
            "The adapter of the model in memory was put into it by add_adapter and cannot be taken off for a new "
            "training. Use peft's get_peft_model or PeftModel.from_pretrained, or pass the model's folder."
        )
    for module in [m for m in model.modules() if isinstance(m, ModulesToSaveWrapper)]:
        for adapter in module.active_adapters:  # unload would leave the trained copy in place
            module.modules_to_save[adapter] = module.original_module
    bare: nn.Module = model.unload()
    return bare


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
    with (reporter or Silent()).track(name, training_steps(len(train), settings)) as advance:
        tuned = fine_tune(
            start.make(),
            encode(train, start.tokenizer, settings.max_length),
            encode(selection, start.tokenizer, settings.max_length),
            settings,
            pad_id=start.tokenizer.pad_token_id,
            folder=folder,
            rows=(train.rows, selection.rows),
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
    ``sample_loss``, ``sample_probability[sample, class]``, ``query_loss`` and ``query_correct``;
    ``samples_truncated`` and ``queries_truncated`` count the texts that were longer than the maximum length.

    Args:
        model: a classifier in any state; it is moved to the device, run in eval mode, and left as it was
            otherwise.
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
    stores, predictions, truncated = [], [], []
    for name, samples in (("gradients of the queries", queries), ("gradients of the samples", train)):
        memory = None if settings.memory is None else int(settings.memory * 1e9)
        folder = scratch / name.rsplit(" ", 1)[-1] if scratch else None
        store = GradientStore(keys, len(samples), folder=folder, memory=memory)
        encoded = encode(samples, tokenizer, settings.max_length)
        with show.track(name, len(samples)) as advance, _modes_kept(model):
            found = collect_gradients(model, modules, encoded, store, pad_id=tokenizer.pad_token_id, advance=advance)
        stores.append(store)
        predictions.append(found)
        truncated.append(encoded.truncated)
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
                "queries_truncated": truncated[0],
                "samples_truncated": truncated[1],
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
    with (reporter or Silent()).track(name, len(samples)) as advance, _modes_kept(model):
        return predict(model, encoded, pad_id=tokenizer.pad_token_id, advance=advance).predicted


def device_of(settings: AuditSettings) -> str:
    """The torch device the settings ask for."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(settings: AuditSettings) -> None:
    """Try the device that the settings ask for.

    Raises:
        ConfigError: when it is not there; names those that are.
    """
    try:
        torch.ones(1, device=device_of(settings)).cpu()
    except Exception as error:  # each backend of torch raises its own
        there = [name for name in ("cuda", "mps", "xpu") if getattr(torch, name).is_available()]
        raise ConfigError(
            f"--device {settings.device} cannot be used: {str(error).splitlines()[0].rstrip('.')}. "
            f"Accepted here are: {', '.join(('auto', 'cpu', *there))}."
        ) from error


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into training or evaluation mode, as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
