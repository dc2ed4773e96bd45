"""What kronfluence is handed: batches of rows, their losses, and a twin of the model with its layers wrapped."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch, token_budget_batches
from undertow.errors import ConfigError, ModelError, TrainingError

# What kronfluence calls the analysis, its factors and its scores.
NAME = "influence"

Batch = Mapping[str, Tensor]
Advance = Callable[[int], None]


def sampled_labels(logits: Float[Tensor, "rows classes"], draws: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The class of each row in whose share of the cumulative probability its number from [0, 1) falls."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return (cumulative <= draws[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)


@dataclass(frozen=True)
class RowBatches:
    """A dataset whose items are whole batches, so that kronfluence takes batches of any size.

    ``draws`` holds a uniform number for each row, which decides the label that is drawn for it.
    """

    encoded: Encoded
    positions: list[Int[np.ndarray, " _"]]
    pad_id: int
    draws: Float[np.ndarray, " n"]

    @classmethod
    def cut(cls, encoded: Encoded, token_budget: int, pad_id: int, seed: int) -> "RowBatches":
        """All rows in batches of at most ``token_budget`` tokens with padding."""
        draws = np.random.default_rng(seed).random(len(encoded))
        return cls(encoded, token_budget_batches(encoded.lengths, token_budget), pad_id, draws)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = self.positions[index]
        arrays = pad_batch(self.encoded, rows, self.pad_id)
        arrays |= {"labels": self.encoded.labels[rows], "draws": self.draws[rows]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def places(self) -> Int[Tensor, " n"]:
        """Where each row of ``encoded`` stands among the rows of all batches."""
        return torch.from_numpy(np.argsort(np.concatenate(self.positions)))


def _summed_loss(model: nn.Module, batch: Batch, *, sample: bool) -> Float[Tensor, ""]:
    logits: Tensor = model(**{k: v for k, v in batch.items() if k not in ("labels", "draws")}).logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = sampled_labels(wide.detach(), batch["draws"]) if sample else batch["labels"]
    loss: Tensor = nn.functional.cross_entropy(wide, labels, reduction="sum")
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss of a batch of {len(labels)} rows is not finite, so EK-FAC cannot be computed. The model has "
            "diverged, or these texts break it: lower --learning-rate, or look at the rows first."
        )
    return loss


def _task(names: Sequence[str], advance: Advance) -> Any:
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
            advance(len(batch["labels"]))
            return _summed_loss(model, batch, sample=sample)

        def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
            advance(len(batch["labels"]))
            return _summed_loss(model, batch, sample=False)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(names)

        def get_attention_mask(self, batch: Batch) -> Tensor:
            return batch["attention_mask"]

    return Classification()


def analyzer_of(model: nn.Module, names: Sequence[str], batch: Batch, folder: str, advance: Advance) -> Any:
    """A kronfluence Analyzer of these layers that writes into ``folder`` and takes ``RowBatches``, one at a time.

    ``batch`` is tried out on the model first.

    Raises:
        ConfigError: in one of several processes.
        ModelError: for a layer that does not take part in the loss exactly once.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs
    from kronfluence.utils.state import State

    device = next(model.parameters()).device
    on_cpu = device.type != "cuda"
    if State(cpu=on_cpu).use_distributed:
        raise ConfigError(
            "The estimator ekfac was started in several processes; it runs in one. Start without torchrun or "
            "accelerate launch, or choose another estimator."
        )
    task = _task(names, advance)
    prepared = prepare_model(_twin(model), task)
    _check_runs_once(prepared, names, {k: v[:1].to(device) for k, v in batch.items()})
    analyzer = Analyzer(NAME, prepared, task, cpu=on_cpu, disable_tqdm=True, output_dir=folder)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda batches: batches[0]))
    return analyzer


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the model that shares its weights, but not their flags and gradients."""
    shared = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters() if type(p) is nn.Parameter
    }
    return copy.deepcopy(model, {**shared, **{id(b): b.detach() for b in model.buffers()}})


def _check_runs_once(prepared: nn.Module, names: Sequence[str], batch: Batch) -> None:
    """kronfluence mixes up the gradients of a layer that runs twice, and fails without words where one never runs."""
    runs = dict.fromkeys(names, 0)

    def counting(name: str) -> Callable[..., None]:
        def arrived(_: Tensor) -> None:
            runs[name] += 1

        def forward_hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            output.register_hook(arrived)  # type: ignore[no-untyped-call]

        return forward_hook

    handles = [prepared.get_submodule(name).register_forward_hook(counting(name)) for name in names]
    _summed_loss(prepared, batch, sample=False).backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    wrong = [f"{name} ({times} times)" for name, times in runs.items() if times != 1]
    if wrong:
        raise ModelError(
            "The estimator ekfac needs linear layers that take part in the loss exactly once in a forward pass; these "
            f"do not: {', '.join(wrong)}. Leave them out, or choose another estimator."
        )
