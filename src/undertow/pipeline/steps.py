"""The steps of an audit, each callable alone with objects in memory."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from undertow.data import Samples, encode
from undertow.errors import ConfigError, ModelError
from undertow.gradients.collect import predict
from undertow.influence.names import needing
from undertow.models.loading import prepare_tokenizer
from undertow.pipeline.ranks import alone
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter, Silent
from undertow.training.finetune import Finetuned, check_training, fine_tune, forget_checkpoints, training_steps
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


def start_from(base: ModelFactory, tokenizer: Any, settings: AuditSettings, fresh: tuple[str, ...] = ()) -> Start:
    """A start from a function that makes a classifier without an adapter; ``fresh`` layers are trained whole."""
    return Start(base, lambda: adapt(base(), settings, fresh), tokenizer)


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


def adapt(model: nn.Module, settings: AuditSettings, fresh: tuple[str, ...] = ()) -> nn.Module:
    """Put fresh LoRA on a classifier, as the settings say; the same seed gives the same adapter."""
    return attach_lora(
        model,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.target_modules,
        fresh=fresh,
        seed=settings.seed,
    )


def fine_tune_step(
    start: Start,
    train: Samples,
    selection: Samples,
    settings: AuditSettings,
    *,
    folder: Path,
    record: Path | None = None,
    name: str = "fine-tuning",
    weights: Float[np.ndarray, " n"] | None = None,
    reporter: Reporter | None = None,
) -> Finetuned:
    """Fine-tune LoRA on ``train``, keeping the epoch of lowest loss on ``selection``.

    ``weights`` are what the losses of the rows weigh. ``record`` keeps what `undertow.training.checkpoints` records of
    every epoch. ``folder`` holds checkpoints
    while it runs: the same call goes on where an interrupted one stopped. It is removed at the end.

    Raises:
        TrainingError: when the loss is NaN or infinite.
    """
    # The first of several processes trains; a Trainer that saw the others would share its batches with them.
    with alone(), (reporter or Silent()).track(name, training_steps(len(train), settings)) as advance:
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
            record=record,
            weights=weights,
        )
    forget_checkpoints(folder)
    return tuned


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
    predicted: np.ndarray = probabilities_step(
        model, tokenizer, samples, settings, name=name, reporter=reporter
    ).argmax(1)
    return predicted


def probabilities_step(
    model: nn.Module,
    tokenizer: Any,
    samples: Samples,
    settings: AuditSettings,
    *,
    name: str = "predictions",
    reporter: Reporter | None = None,
) -> np.ndarray:
    """Probability of each class for each sample, [n, classes]."""
    encoded = encode(samples, tokenizer, settings.max_length)
    model = model.to(device_of(settings))
    with (reporter or Silent()).track(name, len(samples)) as advance, modes_kept(model):
        found = predict(model, encoded, pad_id=tokenizer.pad_token_id, advance=advance)
    return found.probabilities


def device_of(settings: AuditSettings, local: int = 0) -> str:
    """The torch device the settings ask for; of several GPUs, the one of this process."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{local}" if device == "cuda" and torch.cuda.device_count() > 1 else device


def check_libraries(settings: AuditSettings) -> None:
    """Make sure that optional libraries the settings ask for are there, before anything is trained.

    Raises:
        ConfigError: with the line that installs what is missing.
    """
    check_training(settings, device_of(settings))
    if needing(settings.estimators, "model"):
        from undertow.influence.ekfac import check_library

        check_library()
    if "confident-learning" in settings.baselines:
        from undertow.baselines import confident

        confident.check_library()
    if "dawid-skene" in settings.baselines:
        from undertow.baselines import dawid_skene

        dawid_skene.check_library()


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
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into training or evaluation mode, as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
