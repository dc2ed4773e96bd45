"""A fine-tuning of a few steps, and ways to interrupt it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import PAD, QUERY_VALUE, random_rows, tiny_classifier
from torch import nn

from undertow.data.tokenize import Encoded
from undertow.training.config import FinetuneConfig
from undertow.training.finetune import Finetuned, fine_tune
from undertow.training.lora import attach_lora

EPOCHS, ROWS, BATCH = 3, 22, 4
STEPS = 6  # of an epoch; the last batch is not full
SELECTION = random_rows((5, 8, 3, 9), seed=9)


class Interruption(Exception):
    """Raised in the middle of a training."""


def training_rows(rows: int = ROWS) -> Encoded:
    """Rows of which the first token is the row's own, so that a batch shows which rows it holds."""
    encoded = random_rows(tuple(np.random.default_rng(5).integers(3, 12, rows).tolist()), seed=1)
    for row, ids in enumerate(encoded.input_ids):
        ids[0] = 1 + row
    return encoded


def tiny_model(dropout: float = 0.1, seed: int = 0) -> nn.Module:
    model = tiny_classifier("bert", seed=seed).float()
    return attach_lora(model, rank=2, alpha=4.0, dropout=dropout, targets=QUERY_VALUE["bert"], seed=seed)


def after(steps: int) -> Callable[[int], None]:
    """Raises once so many steps are done, before the checkpoint that may follow."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done == steps:
            raise Interruption

    return advance


def tune(folder: Path, *, model: nn.Module | None = None, epochs: int = EPOCHS, **options: Any) -> Finetuned:
    """Fine-tune the tiny model; the same folder goes on where an interrupted call stopped."""
    rate = options.pop("learning_rate", 0.02)
    config = FinetuneConfig(epochs=epochs, batch_size=BATCH, learning_rate=rate, seed=3)
    train = options.pop("train", None) or training_rows()
    return fine_tune(model or tiny_model(), train, SELECTION, config, pad_id=PAD, folder=folder, **options)
