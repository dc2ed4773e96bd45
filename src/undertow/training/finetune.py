"""Fine-tuning a classifier, resumable, keeping the checkpoint of lowest loss on the selection split."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from undertow.data.tokenize import Encoded, pad_batch
from undertow.errors import ConfigError, TrainingError
from undertow.models.kernels import QuickLinear
from undertow.models.quiet import quiet_loading
from undertow.training.checkpoints import CheckpointRecorder
from undertow.training.config import FinetuneConfig
from undertow.training.dynamics import FILE as DYNAMICS_FILE
from undertow.training.dynamics import Dynamics, DynamicsRecorder
from undertow.training.sampler import LengthBucketSampler

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model with what was seen on the way.

    Attributes:
        model: the model, with the weights of the best checkpoint, in eval mode.
        selection_loss: mean loss on the selection split after each epoch.
        best_epoch: 1-based epoch whose weights were kept.
        dynamics: margins of the training samples in every epoch.
    """

    model: nn.Module
    selection_loss: tuple[float, ...]
    best_epoch: int
    dynamics: Dynamics


class _Rows(torch.utils.data.Dataset["tuple[_Rows, int]"]):
    """Positions in encoded texts; ``ids`` are the row ids that messages name."""

    def __init__(self, encoded: Encoded, ids: Int[np.ndarray, " n"]) -> None:
        self.encoded = encoded
        self.ids = ids

    def __len__(self) -> int:
        return len(self.encoded.labels)

    def __getitem__(self, position: int) -> "tuple[_Rows, int]":
        return self, position


class _Collator:
    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, items: Sequence[tuple[_Rows, int]]) -> dict[str, Tensor]:
        rows = items[0][0]
        encoded, positions = rows.encoded, np.array([p for _, p in items], dtype=np.int64)
        batch = {name: torch.from_numpy(a) for name, a in pad_batch(encoded, positions, self.pad_id).items()}
        return {
            **batch,
            "labels": torch.from_numpy(encoded.labels[positions]),
            "row": torch.from_numpy(rows.ids[positions]),
            "position": torch.from_numpy(positions),
        }


class _Trainer(Trainer):  # type: ignore[misc]
    """A Trainer with batches of similar length, which stops at the first loss that is not finite.

    ``dynamics`` notes the margins of the batches that it trains on; ``weights`` are those of the training rows, of mean
    1, or None for the same.
    """

    def __init__(self, *, dynamics: DynamicsRecorder, weights: Float[np.ndarray, " n"] | None, **options: Any) -> None:
        super().__init__(**options)
        self.model_accepts_loss_kwargs = False  # ours is a mean over the batch, to be averaged over those of a step
        self.dynamics = dynamics
        self.row_weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def _get_train_sampler(self, train_dataset: _Rows | None = None) -> LengthBucketSampler:
        rows = train_dataset or self.train_dataset
        return LengthBucketSampler(rows.encoded.lengths, self.args.train_batch_size, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: _Rows) -> list[int]:
        # The mean loss does not depend on the order, the padding does.
        return list(map(int, eval_dataset.encoded.lengths.argsort(kind="stable")))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        rows, positions, labels = inputs.pop("row"), inputs.pop("position"), inputs.pop("labels")
        outputs = model(**inputs)
        losses = nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="none")
        bad = ~torch.isfinite(losses.detach())
        if bad.any():
            raise TrainingError(_diverged(rows[bad].tolist(), len(rows), self.state.global_step, model.training))
        if model.training:
            self.dynamics.add(int(self.state.epoch), positions, outputs.logits, labels)
            if self.row_weights is not None:
                losses = losses * self.row_weights[positions.cpu()].to(losses.device)
        loss = losses.mean()
        return (loss, outputs) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if output_dir is not None:  # a checkpoint, whose trainer state comes after this
            self.dynamics.save(Path(output_dir))


class _Follower(TrainerCallback):  # type: ignore[misc]
    """Advances the bar, and finds the best checkpoint again where the folder was moved in between."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:  # resumed: what was done before counts
            self.advance(state.global_step)
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)


def training_steps(rows: int, config: FinetuneConfig) -> int:
    """Optimiser steps of a fine-tuning."""
    return config.epochs * -(-rows // (config.batch_size * config.accumulate))


def check_training(config: FinetuneConfig, device: str) -> None:
    """Make sure that a fine-tuning can compute and report as it is told to.

    Raises:
        ConfigError: says what is not possible here, and what is.
    """
    if config.mixed_precision == "fp16" and device == "cpu":
        raise ConfigError("--mixed-precision fp16 needs a GPU, and this is a CPU. Use bf16, or no.")
    if config.report_to:
        from transformers.integrations import get_available_reporting_integrations

        there = sorted(get_available_reporting_integrations())
        missing = [name for name in config.report_to if name not in there]
        if missing:
            raise ConfigError(
                f"--report-to {', '.join(missing)} is not installed or not known. Installed here: "
                f"{', '.join(there) or 'none'}. Install its package, or leave it out."
            )


def fine_tune(
    model: nn.Module,
    train: Encoded,
    selection: Encoded,
    config: FinetuneConfig,
    *,
    pad_id: int,
    folder: Path,
    rows: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]] | None = None,
    device: str = "cpu",
    advance: Advance = lambda n: None,
    record: Path | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Finetuned:
    """Train a model (with its adapter attached) and keep the checkpoint of lowest selection loss.

    ``folder`` receives a checkpoint after each epoch; where it holds one already, training goes on from
    there and ends as if it had never stopped. It is the caller's to delete, except where training
    diverges: it would do so again from any checkpoint, so they are gone then.

    ``rows`` are the row ids of both splits for messages, positions by default.

    ``weights`` are what the losses of the training rows weigh, one a row; they are scaled to a mean of 1.

    ``record`` is a folder that keeps the trained weights, the learning rate and the state of the optimiser
    of every epoch, for `recorded_checkpoints` to read. It is not deleted.

    Raises:
        TrainingError: when a loss is NaN or infinite; names the rows of the batch.
        ConfigError: for weights that are not one a row, or negative.
        RunFolderError: when ``folder`` or ``record`` holds another training.
    """
    train_ids, selection_ids = rows or (np.arange(len(train)), np.arange(len(selection)))
    dynamics = DynamicsRecorder(config.epochs, len(train))
    checkpoint = _last_whole_checkpoint(folder)
    if checkpoint is not None:
        dynamics.restore(checkpoint)
    with quiet_loading():
        trainer = _Trainer(
            model=model,
            args=_arguments(train, config, folder.resolve(), device),
            train_dataset=_Rows(train, train_ids),
            eval_dataset=_Rows(selection, selection_ids),
            data_collator=_Collator(pad_id),
            callbacks=[_Follower(advance), *([CheckpointRecorder(record)] if record else [])],
            dynamics=dynamics,
            weights=None if weights is None else _mean_one(weights, len(train)),
        )
        trainer.remove_callback(PrinterCallback)
        try:
            with QuickLinear():
                trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        except TrainingError:
            forget_checkpoints(folder)
            raise
    losses = tuple(float(e["eval_loss"]) for e in trainer.state.log_history if "eval_loss" in e)
    best = min(range(len(losses)), key=losses.__getitem__)
    trained: nn.Module = trainer.model
    trained.eval()
    return Finetuned(trained, losses, best + 1, dynamics.finished())


def _mean_one(weights: Float[np.ndarray, " n"], rows: int) -> Float[np.ndarray, " n"]:
    """Weights of mean 1, which leave the size of a step as it is.

    Raises:
        ConfigError: when they are not one a row, negative, not finite, or all 0.
    """
    if len(weights) != rows or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise ConfigError(
            f"Weights of training rows are to be one for each of the {rows:,} rows, finite, 0 or more, at least one "
            f"above 0; {len(weights):,} came."
        )
    result: np.ndarray = weights / weights.mean()
    return result


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a kill left unfinished is deleted."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]), reverse=True)
    for checkpoint in newest_first:
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text())  # written last
            if (checkpoint / DYNAMICS_FILE).is_file():
                return checkpoint.resolve()
        except (OSError, ValueError):
            pass
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def forget_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished fine-tuning."""
    shutil.rmtree(folder, ignore_errors=True)


def _arguments(train: Encoded, config: FinetuneConfig, folder: Path, device: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * training_steps(len(train.labels), config)),
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        gradient_accumulation_steps=config.accumulate,
        bf16=config.mixed_precision == "bf16",
        fp16=config.mixed_precision == "fp16",
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        save_total_limit=2,
    )


def _diverged(rows: list[int], batch: int, step: int, training: bool) -> str:
    rows = sorted(rows)
    shown = ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")
    what = "training" if training else "validation"
    advice = "Lower --learning-rate." if step else "Look at these rows, and at the weights of the model."
    return (
        f"The loss is NaN or infinite after {step} steps, for {len(rows)} of the {batch} rows of a batch of the "
        f"{what} data (rows {shown}, counted from 0): fine-tuning has diverged. {advice}"
    )
