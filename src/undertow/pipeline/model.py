"""Getting from a model argument to the model that is audited."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from undertow.errors import ModelError
from undertow.models.loading import (
    CLASSES_FILE,
    LoadedModel,
    ModelSource,
    load_model,
    prepare_tokenizer,
    resolve_model,
    with_adapter,
)
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, fine_tune_step, start_from, start_in_memory
from undertow.progress import Reporter

ModelLike = str | Path | nn.Module


@dataclass(frozen=True)
class DescribedModel:
    """A model argument with the class names of its trained head, before any weights are loaded."""

    name: str
    source: ModelSource | None
    module: nn.Module | None
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Audited:
    """The model that is audited.

    ``trained_here`` says that the audit fine-tuned it, from ``start`` and on the training rows.
    """

    name: str
    model: nn.Module
    start: Start
    trained_here: bool
    notes: tuple[str, ...]


def describe_model(model: ModelLike, settings: AuditSettings, show: Reporter) -> DescribedModel:
    """Resolve a model argument.

    Raises:
        ModelError: when there is no such model, or it is not one that can be loaded safely.
    """
    if isinstance(model, nn.Module):
        return DescribedModel(f"in-memory {type(model).__name__}", None, model, None)
    source = resolve_model(str(model), trust_remote_code=settings.trust_remote_code, say=show.say)
    # A head that is to be trained anew does not decide the order of the classes.
    classes = None if settings.finetune == "always" else source.classes
    return DescribedModel(str(model), source, None, classes)


def prepare_model(
    run: RunFolder,
    described: DescribedModel,
    tokenizer: Any,
    inputs: Inputs,
    settings: AuditSettings,
    show: Reporter,
) -> Audited:
    """Load the model and fine-tune it where that is asked for or needed.

    Raises:
        ModelError: when the model cannot be loaded, or has nothing trained and may not be trained.
        TrainingError: when fine-tuning diverges.
    """
    classes = inputs.train.classes
    loaded = _load(described, tokenizer, classes, settings)
    start = _start(described, loaded, classes, settings)
    train_here, trained = _must_train(loaded, settings), loaded.model
    notes = loaded.notes if train_here else (*loaded.notes, *_coverage(loaded))
    if train_here:
        del loaded, trained  # the start makes its own copy; two would be held while it trains
        trained = _train(run, start, inputs, settings, show)
    return Audited(described.name, trained, start, train_here, notes)


def _train(run: RunFolder, start: Start, inputs: Inputs, settings: AuditSettings, show: Reporter) -> nn.Module:
    adapter, classes = run.path / "adapter", inputs.train.classes
    if run.done("fine-tune"):
        return with_adapter(start.base(), adapter, len(classes))
    with run.stage("fine-tune") as outputs:
        tuned = fine_tune_step(
            start,
            inputs.train,
            inputs.selection,
            settings,
            folder=run.path / "checkpoints" / "as-given",
            reporter=show,
        )
        save_adapter(tuned.model, adapter, classes)
        outputs.update(selection_loss=tuned.selection_loss, best_epoch=tuned.best_epoch)
    return tuned.model


def _load(described: DescribedModel, tokenizer: Any, classes: tuple[str, ...], settings: AuditSettings) -> LoadedModel:
    if described.source is not None:
        return _load_source(described.source, classes, settings, use_adapter=settings.finetune != "always")
    model = described.module
    if tokenizer is None or model is None:
        raise ModelError("A model in memory came without its tokenizer. Pass tokenizer= beside it.")
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
        seed=settings.seed,
        trust_remote_code=settings.trust_remote_code,
    )


def _start(described: DescribedModel, loaded: LoadedModel, classes: tuple[str, ...], settings: AuditSettings) -> Start:
    source = described.source
    if source is None:
        return start_in_memory(loaded.model, loaded.tokenizer, settings)
    return start_from(
        lambda: _load_source(source, classes, settings, use_adapter=False).model, loaded.tokenizer, settings
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


def _coverage(loaded: LoadedModel) -> tuple[str, ...]:
    if loaded.trained_adapter:
        return ()
    return (
        "The model has a trained head and no adapter: only the head is audited. Pass --finetune always to train "
        "LoRA on it and see its layers too.",
    )


def save_adapter(model: nn.Module, folder: Path, classes: tuple[str, ...]) -> None:
    """Save a PEFT adapter with the class names that its head was trained with."""
    model.save_pretrained(str(folder))  # type: ignore[operator]
    (folder / CLASSES_FILE).write_text(json.dumps({"classes": list(classes)}, ensure_ascii=False) + "\n")
