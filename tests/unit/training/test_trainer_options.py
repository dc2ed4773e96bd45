"""Options that go through to the Trainer: batches gathered into one step, lower precision, reports."""

from pathlib import Path

import pytest
import torch
from tiny_models import PAD, QUERY_VALUE, random_rows, tiny_classifier
from torch.optim.optimizer import register_optimizer_step_pre_hook

from undertow.errors import ConfigError
from undertow.training.config import FinetuneConfig
from undertow.training.finetune import check_training, fine_tune, training_steps
from undertow.training.lora import attach_lora

ROWS = random_rows((6, 3, 9, 5, 7, 4, 8, 6), seed=2)


def gradients(folder: Path, kind: str, **options: object) -> list[torch.Tensor]:
    """Gradients that the optimiser of a fine-tuning sees at its first step, and how many steps it takes."""
    model = attach_lora(
        tiny_classifier(kind, seed=0).float(), rank=2, alpha=4.0, dropout=0.0, targets=QUERY_VALUE[kind], seed=0
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # it would draw other masks for other batches
            module.p = 0.0
    seen: list[list[torch.Tensor]] = []

    def look(optimiser, arguments, named):
        seen.append([p.grad.clone() for group in optimiser.param_groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(look)
    try:
        config = FinetuneConfig(**{"epochs": 2, "dropout": 0.0, "learning_rate": 0.01, "seed": 1, **options})
        fine_tune(model, ROWS, ROWS, config, pad_id=PAD, folder=folder)
    finally:
        handle.remove()
    assert len(seen) == training_steps(len(ROWS), config)
    return seen[0]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_gathered_batches_are_one_large_batch(kind, tmp_path):
    whole = gradients(tmp_path / "whole", kind, batch_size=8)
    gathered = gradients(tmp_path / "gathered", kind, batch_size=2, accumulate=4)
    assert any(g.abs().max() > 1e-3 for g in whole)
    for one, other in zip(whole, gathered, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_steps_of_gathered_batches_that_do_not_fill():
    assert training_steps(10, FinetuneConfig(epochs=3, batch_size=2, accumulate=2)) == 9
    assert training_steps(10, FinetuneConfig(epochs=3, batch_size=2)) == 15


def test_bfloat16_computes_otherwise(tmp_path):
    plain = gradients(tmp_path / "plain", "bert", batch_size=8)
    mixed = gradients(tmp_path / "mixed", "bert", batch_size=8, mixed_precision="bf16")
    assert any(not torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    for one, other in zip(plain, mixed, strict=True):
        torch.testing.assert_close(other, one, rtol=0.1, atol=0.02)


def test_what_is_not_possible_here_is_refused():
    check_training(FinetuneConfig(mixed_precision="bf16"), "cpu")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        check_training(FinetuneConfig(mixed_precision="fp16"), "cpu")
    with pytest.raises(ConfigError, match="--report-to nowhere is not installed or not known"):
        check_training(FinetuneConfig(report_to=("nowhere",)), "cpu")
