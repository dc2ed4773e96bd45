"""Recording a training for estimators that follow it: weights, learning rates and the state of Adam."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from undertow.errors import ConfigError, RunFolderError
from undertow.training.recorded import (
    ABOUT,
    MOMENTS,
    WEIGHTS,
    AdamState,
    Recorded,
    recorded_checkpoints,
    step_folders,
)

__all__ = ["AdamState", "CheckpointRecorder", "Recorded", "recorded_checkpoints"]

_PART, _FINISHED, _RATES = ".part", "finished", "rates.jsonl"
_KEPT_OF_GROUP = ("betas", "eps", "weight_decay")


class CheckpointRecorder(TrainerCallback):  # type: ignore[misc]
    """A callback for any `transformers.Trainer` that records its training for TracInCP and LESS.

    Every recorded step gets ``folder/step-XXXXX`` with the trainable parameters as they are after that step,
    named as in ``model.named_parameters()``, the learning rate of that step and the mean of those since the
    record before, and for optimisers of the Adam family the moments. Each is written aside and renamed, so a
    kill leaves no half of one.

    A training that goes on from a checkpoint drops the records of later steps, which it will take again: each
    is there once. A training that starts anew drops those of one that never came to its end, and refuses the
    folder of one that did (RunFolderError).

    Args:
        folder: where to record.
        every: "epoch", or a number of optimiser steps.

    Raises:
        ConfigError: ``every`` is neither.
    """

    def __init__(self, folder: Path | str, every: str | int = "epoch") -> None:
        if every != "epoch" and (isinstance(every, str | bool) or every < 1):
            raise ConfigError(f"every is {every!r}. It is 'epoch', or a number of steps from 1 on.")
        self.folder = Path(folder)
        self.every = every
        # Learning rates of the groups in each step since the last record.
        self._rates: list[list[float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make room for the steps that come."""
        if not state.is_world_process_zero:
            return
        if (self.folder / _FINISHED).exists() and not state.global_step:
            raise RunFolderError(
                f"{self.folder} holds the record of a training that came to its end, and this one starts from the "
                "beginning. Give another folder, or delete this one."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _FINISHED).unlink(missing_ok=True)
        late = [path for step, path in step_folders(self.folder) if step > state.global_step]
        for path in (*late, *self.folder.glob(f"step-*{_PART}")):
            shutil.rmtree(path)
        self._rates = _rates_again(self.folder, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **_: Any) -> None:
        """Note the learning rates: when the step is over, the scheduler has moved on to the next."""
        self._rates.append([float(group["lr"]) for group in optimizer.param_groups])
        if state.is_world_process_zero:  # a training that goes on from here needs them for its means
            with (self.folder / _RATES).open("a", encoding="utf-8") as file:
                file.write(json.dumps([state.global_step + 1, self._rates[-1]]) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any) -> None:
        """Record, where every so many steps are asked for."""
        if isinstance(self.every, int) and state.global_step % self.every == 0:
            self._record(state, model, optimizer)

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any) -> None:
        """Record, where every epoch is asked for."""
        if self.every == "epoch" and self._rates:
            self._record(state, model, optimizer)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the record as that of a whole training."""
        if state.is_world_process_zero:
            (self.folder / _FINISHED).touch()

    def _record(self, state: Any, model: nn.Module, optimizer: Any) -> None:
        rates, self._rates = self._rates, []
        if not state.is_world_process_zero:
            return
        path = self.folder / f"step-{state.global_step:05d}"
        aside = path.with_suffix(_PART)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        about, moments = _optimizer_record(optimizer, list(weights), dict(model.named_parameters()), rates)
        save_file(weights, aside / WEIGHTS)
        save_file(moments, aside / MOMENTS)
        about |= {"step": state.global_step, "epoch": state.epoch, "weights": list(weights), "moments": list(moments)}
        (aside / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


def _optimizer_record(
    optimizer: Any, names: list[str], parameters: Mapping[str, nn.Parameter], rates: Sequence[list[float]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the optimiser is and holds for the parameters of these names; no moments where it is not like Adam."""
    while hasattr(optimizer, "optimizer"):  # as accelerate wraps it
        optimizer = optimizer.optimizer
    named = {id(parameters[name]): name for name in names}
    groups, steps, moments = [], {}, {}
    for group, taken in zip(optimizer.param_groups, zip(*rates, strict=True), strict=True):
        here = {named[id(p)]: p for p in group["params"] if id(p) in named}
        options = {key: group[key] for key in _KEPT_OF_GROUP if key in group}
        mean = sum(taken) / len(taken)
        groups.append({"names": list(here), "learning_rate": taken[-1], "mean_learning_rate": mean, **options})
        for name, parameter in here.items():
            held = optimizer.state.get(parameter, {})
            if "exp_avg" in held and "exp_avg_sq" in held:
                steps[name] = int(held.get("step", group.get("step", 0)))
                for moment in ("exp_avg", "exp_avg_sq"):
                    moments[f"{moment}.{name}"] = held[moment].detach().cpu().contiguous()
    return {"optimizer": type(optimizer).__name__, "groups": groups, "steps": steps}, moments


def _rates_again(folder: Path, step: int) -> list[list[float]]:
    """The learning rates noted from the last record up to the step that training goes on from; later ones go."""
    file = folder / _RATES
    noted: dict[int, list[float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            number, rates = json.loads(line)
        except ValueError:  # a kill in the middle of a line
            continue
        noted[number] = rates
    noted = {number: rates for number, rates in noted.items() if number <= step}
    aside = file.with_suffix(_PART)
    aside.write_text("".join(json.dumps(item) + "\n" for item in noted.items()), encoding="utf-8")
    aside.replace(file)
    last = max((number for number, _ in step_folders(folder)), default=0)
    return [rates for number, rates in sorted(noted.items()) if number > last]
