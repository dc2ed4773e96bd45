"""Getting from a model argument to the model that is audited."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from undertow.errors import ModelError
from undertow.influence.names import needing
from undertow.models.groups import select_modules
from undertow.models.loading import (
    LoadedModel,
    load_model,
    prepare_tokenizer,
    weights_fingerprint,
    with_adapter,
)
from undertow.models.modules import tracked_modules
from undertow.models.sources import CLASSES_FILE, ModelSource, class_names, resolve_model
from undertow.pipeline.baselines import check_followed
from undertow.pipeline.coverage import check_defined
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.recorded import check_record
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, adapt, fine_tune_step, start_from, start_in_memory
from undertow.progress import Reporter

# Margin of every training row in every epoch, [epochs, n].
DYNAMICS = "dynamics.npy"

ModelLike = str | Path | nn.Module


@dataclass(frozen=True)
class DescribedModel:
    """A model argument with the class names of its trained head, before any weights are loaded."""

    name: str
    source: ModelSource | None
    module: nn.Module | None
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Candidate:
    """A model that is loaded and checked, but not yet trained.

    Attributes:
        name: what the user calls it.
        model: the model where it is audited as it is, None where it is to be fine-tuned.
        start: where fine-tunings of it start.
        trained_here: whether the audit fine-tunes it, from ``start`` and on the training rows.
        settings: the settings, with the maximum length cut to what the model can read.
        fingerprint: hash of the weights as they were loaded.
        notes: what a user should know of this model.
    """

    name: str
    model: nn.Module | None
    start: Start
    trained_here: bool
    settings: AuditSettings
    fingerprint: str
    notes: tuple[str, ...]


def describe_model(model: ModelLike, settings: AuditSettings, show: Reporter) -> DescribedModel:
    """Resolve a model argument.

    Raises:
        ModelError: when there is no such model, or it is not one that can be loaded safely.
    """
    if isinstance(model, nn.Module):
        name, source = f"in-memory {type(model).__name__}", None
        classes = class_names(model.config) if hasattr(model, "config") else None
    else:
        name, source = str(model), resolve_model(str(model), trust_remote_code=settings.trust_remote_code, say=show.say)
        classes = source.classes
    # A head that is to be trained anew does not decide the order of the classes.
    classes = None if settings.finetune == "always" else classes
    return DescribedModel(name, source, model if isinstance(model, nn.Module) else None, classes)


def load_candidate(
    described: DescribedModel, tokenizer: Any, classes: tuple[str, ...], settings: AuditSettings
) -> Candidate:
    """Load the model, and check all that can be checked of it before it is trained.

    Raises:
        ModelError: when the model cannot be loaded, or has nothing trained and may not be trained.
        ConfigError: when the settings select no module of it, or an estimator or baseline cannot be computed of it.
    """
    loaded = _load(described, tokenizer, classes, settings)
    start = _start(described, loaded, classes, settings)
    train_here, fingerprint = _must_train(loaded, settings), weights_fingerprint(loaded.model)
    check_followed(settings.baselines, trained_here=train_here)
    notes = loaded.notes if train_here else (*loaded.notes, *_unnamed(described, classes))
    allowed = _readable(loaded, settings)
    model: nn.Module = loaded.model
    if train_here:
        # A model from disk is made anew to be trained, so this one can serve for the check.
        model = start.make() if described.source is None else adapt(model, settings, loaded.fresh)
    modules = tracked_modules(model, settings.track)
    select_modules([t.key for t in modules], settings.layers)
    check_defined(modules, settings)
    if follows_training(settings) and not train_here:
        check_record(model, settings, Path(settings.recorded) if settings.recorded else None)
    return Candidate(described.name, None if train_here else model, start, train_here, allowed, fingerprint, notes)


def train_candidate(run: RunFolder, candidate: Candidate, inputs: Inputs, show: Reporter) -> nn.Module:
    """The model to audit: as it was loaded, or fine-tuned where that is asked for or needed.

    Raises:
        TrainingError: when fine-tuning diverges.
    """
    if candidate.model is not None:
        return candidate.model
    adapter, classes = run.path / "adapter", inputs.train.classes
    if run.done("fine-tune"):
        return with_adapter(candidate.start.base(), adapter, len(classes))
    with run.stage("fine-tune") as outputs:
        tuned = fine_tune_step(
            candidate.start,
            inputs.train,
            inputs.selection,
            candidate.settings,
            folder=run.path / "checkpoints" / "as-given",
            record=run.path / "recorded" if follows_training(candidate.settings) else None,
            reporter=show,
        )
        np.save(run.path / DYNAMICS, tuned.dynamics.margin)
        save_adapter(tuned.model, adapter, classes)
        outputs.update(selection_loss=tuned.selection_loss, best_epoch=tuned.best_epoch)
    return tuned.model


def follows_training(settings: AuditSettings) -> bool:
    """Whether an estimator needs what a training leaves beside its model."""
    return bool(needing(settings.estimators, "checkpoints") or needing(settings.estimators, "optimiser"))


def _load(described: DescribedModel, tokenizer: Any, classes: tuple[str, ...], settings: AuditSettings) -> LoadedModel:
    if described.source is not None:
        return _load_source(described.source, classes, settings, use_adapter=settings.finetune != "always")
    if tokenizer is None or described.module is None:
        raise ModelError("A model in memory came without its tokenizer. Pass tokenizer= beside it.")
    # Copies: what is done to them (a pad token, the device, LoRA) must not be seen in the user's own.
    model, tokenizer = copy.deepcopy(described.module), copy.deepcopy(tokenizer)
    outputs = getattr(getattr(model, "config", None), "num_labels", None)
    if outputs != len(classes):
        raise ModelError(
            f"The model in memory has {outputs} outputs, the training data {len(classes)} classes "
            f"({', '.join(classes)}). Load it with num_labels={len(classes)}."
        )
    notes = prepare_tokenizer(model, tokenizer)
    has_adapter = hasattr(model, "peft_config")
    # Whether a bare model in memory was trained cannot be seen from it; an adapter says so.
    return LoadedModel(model, tokenizer, None, trained_head=has_adapter, trained_adapter=has_adapter, notes=notes)


def _load_source(
    source: ModelSource, classes: tuple[str, ...], settings: AuditSettings, *, use_adapter: bool
) -> LoadedModel:
    return load_model(
        source,
        classes,
        use_adapter=use_adapter,
        new_head=settings.finetune == "always",
        seed=settings.seed,
        trust_remote_code=settings.trust_remote_code,
    )


def _start(described: DescribedModel, loaded: LoadedModel, classes: tuple[str, ...], settings: AuditSettings) -> Start:
    source = described.source
    if source is None:
        return start_in_memory(loaded.model, loaded.tokenizer, settings)
    return start_from(
        lambda: _load_source(source, classes, settings, use_adapter=False).model,
        loaded.tokenizer,
        settings,
        loaded.fresh,
    )


def _must_train(loaded: LoadedModel, settings: AuditSettings) -> bool:
    trained = loaded.trained_adapter or loaded.trained_head
    if settings.finetune == "never" and not trained and loaded.source is not None:
        raise ModelError(
            f"The model {loaded.source.spec} has neither a trained adapter nor a trained classification head, and "
            "--finetune never forbids to train one. Pass --finetune auto, or a model that was fine-tuned."
        )
    if settings.finetune == "auto":
        return not trained
    return settings.finetune == "always"


def _unnamed(described: DescribedModel, classes: tuple[str, ...]) -> tuple[str, ...]:
    if described.classes is not None or classes == tuple(str(i) for i in range(len(classes))):
        return ()
    order = ", ".join(f"{i} is {name}" for i, name in enumerate(classes))
    return (
        f"The model does not name its outputs; they are read in the order of the training classes: {order}. If they "
        "mean something else, put the names into id2label of its config.json.",
    )


def _readable(loaded: LoadedModel, settings: AuditSettings) -> AuditSettings:
    """The settings, with a maximum length that the position embeddings cover."""
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return settings
    # RoBERTa-type models use up to two positions for padding; their tokenizers know.
    told = int(getattr(loaded.tokenizer, "model_max_length", positions))
    limit = told if 0 <= positions - told <= 2 else positions
    return settings.model_copy(update={"max_length": min(settings.max_length, limit)})


def save_adapter(model: nn.Module, folder: Path, classes: tuple[str, ...]) -> None:
    """Save a PEFT adapter with the class names that its head was trained with.

    A base model in a local folder is named by its whole path, so that the adapter loads from anywhere.
    """
    for config in model.peft_config.values():  # type: ignore[operator]
        base = config.base_model_name_or_path
        if base and Path(base).is_dir():
            config.base_model_name_or_path = str(Path(base).resolve())
    model.save_pretrained(str(folder))  # type: ignore[operator]
    (folder / CLASSES_FILE).write_text(json.dumps({"classes": list(classes)}, ensure_ascii=False) + "\n")
