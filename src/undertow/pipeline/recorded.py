"""What a recorded training gives to estimators: its checkpoints, and the state of its optimiser."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from undertow.errors import ConfigError
from undertow.influence.moments import Moments
from undertow.influence.names import needing
from undertow.models.modules import TrackedModule
from undertow.pipeline.settings import AuditSettings
from undertow.training.checkpoints import Recorded, recorded_checkpoints


def recorded_training(settings: AuditSettings, folder: Path | None) -> tuple[Recorded, ...]:
    """The recorded checkpoints of the model's training.

    Raises:
        ConfigError: when it was not recorded, or nothing of it.
        RunFolderError: when there is no such folder.
    """
    if folder is None:
        names = [*needing(settings.estimators, "checkpoints"), *needing(settings.estimators, "optimiser")]
        raise ConfigError(
            f"{names[0]} follows the training, and this model was not trained here. Pass --finetune always, or train "
            "with undertow.training.checkpoints.CheckpointRecorder(FOLDER) among the Trainer's callbacks and give "
            "--recorded FOLDER."
        )
    found = recorded_checkpoints(folder)
    if not found:
        raise ConfigError(
            f"--recorded {folder} holds no checkpoint. Give the folder that was given to CheckpointRecorder in a "
            "training that came to the end of an epoch."
        )
    return found


def check_record(model: nn.Module, settings: AuditSettings, folder: Path | None) -> None:
    """Make sure that a recorded training is one of this model, without reading all of it.

    Raises:
        ConfigError: when it was not recorded, or ``less`` needs a checkpoint that is not there.
        ModelError: when it is a training of another model.
        RunFolderError: when there is no such folder.
    """
    with recorded_training(settings, folder)[0].load_into(model):
        pass
    if needing(settings.estimators, "optimiser"):
        _record_of(model, settings, folder)


def optimiser_moments(
    model: nn.Module, modules: Sequence[TrackedModule], settings: AuditSettings, folder: Path | None
) -> dict[str, Moments]:
    """State of the optimiser for each trained module, at the checkpoint whose weights the model has.

    Raises:
        ConfigError: when none of the recorded checkpoints has them.
    """
    if not needing(settings.estimators, "optimiser"):
        return {}
    record = _record_of(model, settings, folder)
    return {t.key.name: found for t in modules if (found := _module_moments(record, t))}


def _record_of(model: nn.Module, settings: AuditSettings, folder: Path | None) -> Recorded:
    """The last checkpoint that has the weights of the model."""
    own = dict(model.named_parameters())
    for record in reversed(recorded_training(settings, folder)):
        weights = record.weights()
        if all(name in own and torch.equal(own[name].detach().cpu(), value) for name, value in weights.items()):
            return record
    raise ConfigError(
        f"None of the checkpoints recorded in {folder} has the weights of this model, so the state of its "
        "optimiser is not known. Record the training with every='epoch', and audit the model of one of its epochs."
    )


def _module_moments(record: Recorded, tracked: TrackedModule) -> Moments | None:
    names = [f"{tracked.path}.{part}" for part, _ in tracked.module.named_parameters(recurse=False)]
    if not all(name in record.names for name in names):
        return None  # frozen: no optimiser has it
    states = [record.optimizer_state(name) for name in names]
    return Moments(
        torch.cat([s.exp_avg.flatten() for s in states]),
        torch.cat([s.exp_avg_sq.flatten() for s in states]),
        states[0].step,
        states[0].betas,
        states[0].eps,
    )
