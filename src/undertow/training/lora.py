"""Putting a fresh LoRA adapter on a classifier."""

from collections.abc import Sequence

import torch
from torch import nn

from undertow.models.architectures import check_targets, default_lora_targets, transposed_targets
from undertow.models.quiet import quiet_loading


def attach_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] | None = None,
    fresh: Sequence[str] = (),
    seed: int = 0,
) -> nn.Module:
    """Wrap a sequence classification model with LoRA on its query and value projections.

    The head is trained whole, and so are the modules named in ``fresh``: layers without pretrained weights, such as a
    pooler that the base model does not have. The same seed gives the same initial adapter, so two trainings that differ
    in their data only start at the same point.

    Raises:
        ModelError: for an unknown architecture without ``targets``, or targets that match no linear layer.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    chosen = tuple(targets) if targets else default_lora_targets(model)
    check_targets(model, chosen)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(chosen),
        modules_to_save=list(fresh) or None,
        fan_in_fan_out=transposed_targets(model, chosen),
    )
    torch.manual_seed(seed)
    with quiet_loading():
        adapted: nn.Module = get_peft_model(model, config)
    return adapted
