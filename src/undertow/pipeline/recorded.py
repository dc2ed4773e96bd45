"""What a recorded training gives to estimators: its checkpoints, and the state of its optimiser."""

from collections.abc import Mapping, Sequence
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
        ConfigError: when it was not recorded.
        RunFolderError: when there is no such folder.
    """
    if folder is None:
        names = [*needing(settings.estimators, "checkpoints"), *needing(settings.estimators, "optimiser")]
        raise ConfigError(
            f"{names[0]} follows the training, and this model was not trained here. Pass --finetune always, or train "
            "with undertow.training.checkpoints.CheckpointRecorder(FOLDER) among the Trainer's callbacks and give "
            "--recorded FOLDER."
        )
    return recorded_checkpoints(folder)


def optimiser_moments(
    model: nn.Module, modules: Sequence[TrackedModule], settings: AuditSettings, folder: Path | None
) -> dict[str, Moments]:
    """State of the optimiser for each trained module, at the checkpoint whose weights the model has.

    Raises:
        ConfigError: when none of the recorded checkpoints has them.
    """
    if not needing(settings.estimators, "optimiser"):
        return {}
    own = dict(model.named_parameters())
    for record in reversed(recorded_training(settings, folder)):
        weights = record.weights()
        if all(name in own and torch.equal(own[name].detach().cpu(), value) for name, value in weights.items()):
            return {t.key.name: found for t in modules if (found := _module_moments(record, t, weights))}
    raise ConfigError(
        f"None of the checkpoints recorded in {folder} has the weights of this model, so the state of its "
        "optimiser is not known. Record the training with every='epoch', and audit the model of one of its epochs."
    )


def _module_moments(record: Recorded, tracked: TrackedModule, weights: Mapping[str, torch.Tensor]) -> Moments | None:
    names = [f"{tracked.path}.{part}" for part, _ in tracked.module.named_parameters(recurse=False)]
    if not all(name in weights for name in names):
        return None  # frozen: no optimiser has it
    states = [record.optimizer_state(name) for name in names]
    return Moments(
        torch.cat([s.exp_avg.flatten() for s in states]),
        torch.cat([s.exp_avg_sq.flatten() for s in states]),
        states[0].step,
        states[0].betas,
        states[0].eps,
    )
