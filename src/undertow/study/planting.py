"""Planting the noise of a cell."""

from typing import Any

import numpy as np

from undertow.baselines.confident import held_out_probabilities
from undertow.data import Planted, Samples, encode
from undertow.data.noise import plant
from undertow.errors import DataError
from undertow.gradients.hidden import hidden_states
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, device_of
from undertow.study.cells import Cell
from undertow.study.tasks import TaskData


def planted_rows(cell: Cell, data: TaskData, start: Start, settings: AuditSettings) -> Planted:
    """The training rows of a cell with its noise; at rate 0 as they came.

    Raises:
        DataError: when the rows do not allow this kind of noise.
        ConfigError: for a kind that lacks what it needs.
    """
    train, noise = data.train, cell.noise
    if noise.kind != "column" and noise.rate == 0:
        return Planted(train, np.zeros(len(train), dtype=bool), train.labels.copy())
    given: dict[str, Any] = {}
    if noise.kind == "doubt":
        given["probabilities"] = doubts(train, start, settings)
    if noise.kind == "transition":
        given["transition"] = np.array(noise.transition, dtype=np.float64)
    if noise.kind == "column":
        if data.true_labels is None:
            raise DataError(f"The task '{cell.task.name}' has no true_label_column:, which noise of kind column needs.")
        given["true_labels"] = data.true_labels
    rate = None if noise.kind == "column" else noise.rate
    return plant(train, noise.kind, rate, seed=cell.seed, **given)


def doubts(train: Samples, start: Start, settings: AuditSettings) -> np.ndarray:
    """What a reference model makes of each row, [n, classes]: out-of-fold probabilities of a logistic regression on the
    hidden states of the model before fine-tuning.
    """
    encoded = encode(train, start.tokenizer, settings.max_length)
    model = start.base().eval().to(device_of(settings))
    states = hidden_states(model, encoded, pad_id=start.tokenizer.pad_token_id, layers=[-1], pooling=["mean"])
    assert states.mean is not None
    classes, labels = np.unique(train.labels, return_inverse=True)
    found = np.zeros((len(train), len(train.classes)))
    found[:, classes] = held_out_probabilities(states.mean[0], labels, seed=settings.seed)
    return found
