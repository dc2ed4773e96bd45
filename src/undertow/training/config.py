"""Hyperparameters of fine-tuning; the defaults are those of the paper's protocol."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FinetuneConfig(BaseModel):
    """LoRA fine-tuning with AdamW, a cosine schedule with warm-up, and the checkpoint of lowest loss.

    Defaults: Vitel & Chhabra, arXiv 2511.04715, protocol of the classification study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    epochs: int = Field(10, ge=1, description="passes over the training set")
    batch_size: int = Field(32, ge=1, description="rows a batch")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    rank: int = Field(4, ge=1, description="rank of LoRA")
    alpha: float = Field(4.0, gt=0, description="alpha of LoRA; its update is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout in front of LoRA")
    target_modules: tuple[str, ...] | None = Field(
        None, description="last name parts of the linear layers to adapt; query and value unless given"
    )
    accumulate: int = Field(1, ge=1, description="batches that make one step together, where memory is short")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="lower precision that fine-tuning computes in where it can; fp16 needs a GPU"
    )
    report_to: tuple[str, ...] = Field(
        (), description="where transformers logs fine-tuning to, such as tensorboard or wandb"
    )
    seed: int = Field(0, ge=0, description="seeds initial weights, row order and dropout")
