"""Recording a training for estimators that follow it: weights, learning rates and the state of Adam."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from undertow.errors import ConfigError, ModelError, RunFolderError

_WEIGHTS, _MOMENTS, _ABOUT, _FINISHED = "weights.safetensors", "moments.safetensors", "record.json", "finished"
_PART = ".part"
_NAME = re.compile(r"step-(\d+)")
_KEPT_OF_GROUP = ("betas", "eps", "weight_decay")


class CheckpointRecorder(TrainerCallback):  # type: ignore[misc]
    """A callback for any `transformers.Trainer` that records its training for TracInCP and LESS.

    Every recorded step gets ``folder/step-XXXXX`` with the trainable parameters as they are after that step,
    named as in ``model.named_parameters()``, the learning rate of that step, and for optimisers of the Adam
    family the moments. Each is written aside and renamed, so a kill leaves no half of one.

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
        self._rates: list[float] = []

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
        late = [path for step, path in _step_folders(self.folder) if step > state.global_step]
        for path in (*late, *self.folder.glob(f"step-*{_PART}")):
            shutil.rmtree(path)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **_: Any) -> None:
        """Note the learning rates: when the step is over, the scheduler has moved on to the next."""
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]

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
        if not state.is_world_process_zero:
            return
        path = self.folder / f"step-{state.global_step:05d}"
        aside = path.with_suffix(_PART)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        about, moments = _optimizer_record(optimizer, list(weights), dict(model.named_parameters()), self._rates)
        save_file(weights, aside / _WEIGHTS)
        save_file(moments, aside / _MOMENTS)
        about |= {"step": state.global_step, "epoch": state.epoch, "weights": list(weights), "moments": list(moments)}
        (aside / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


def _optimizer_record(
    optimizer: Any, names: list[str], parameters: Mapping[str, nn.Parameter], rates: list[float]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the optimiser is and holds for the parameters of these names; no moments where it is not like Adam."""
    while hasattr(optimizer, "optimizer"):  # as accelerate wraps it
        optimizer = optimizer.optimizer
    named = {id(parameters[name]): name for name in names}
    groups, steps, moments = [], {}, {}
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        here = {named[id(p)]: p for p in group["params"] if id(p) in named}
        options = {key: group[key] for key in _KEPT_OF_GROUP if key in group}
        groups.append({"names": list(here), "learning_rate": rate, **options})
        for name, parameter in here.items():
            held = optimizer.state.get(parameter, {})
            if "exp_avg" in held and "exp_avg_sq" in held:
                steps[name] = int(held.get("step", group.get("step", 0)))
                for moment in ("exp_avg", "exp_avg_sq"):
                    moments[f"{moment}.{name}"] = held[moment].detach().cpu().contiguous()
    return {"optimizer": type(optimizer).__name__, "groups": groups, "steps": steps}, moments


@dataclass(frozen=True)
class AdamState:
    """What an optimiser of the Adam family holds for one parameter after a step.

    Attributes:
        exp_avg: running mean m of the gradients, in the parameter's shape, without bias correction.
        exp_avg_sq: running mean v of their squares, likewise.
        step: updates done, t in the bias corrections 1 - beta^t.
        betas: decay of m and of v.
        eps: what is added to the root of v.
        weight_decay: the decay of the weights.
        learning_rate: that of this step.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    learning_rate: float


@dataclass(frozen=True)
class Recorded:
    """One recorded step of a training.

    Attributes:
        path: its folder.
        step: optimiser steps done by then.
        epoch: passes over the training data done by then.
        optimizer: class name of the optimiser.
        names: the recorded parameters.
    """

    path: Path
    step: int
    epoch: float
    optimizer: str
    names: tuple[str, ...]

    @cached_property
    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads((self.path / _ABOUT).read_text(encoding="utf-8"))
        return about

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rate of this step by parameter: the one that led to these weights."""
        return {name: float(g["learning_rate"]) for g in self._about["groups"] for name in g["names"]}

    @property
    def learning_rate(self) -> float:
        """The learning rate of this step.

        Raises:
            ConfigError: parameters were trained at different rates.
        """
        rates = sorted(set(self.learning_rates.values()))
        if len(rates) != 1:
            raise ConfigError(
                f"{self.path} records {len(rates)} learning rates ({', '.join(f'{r:g}' for r in rates[:5])}), so there "
                "is not one of them. Read learning_rates, which has that of each parameter."
            )
        return rates[0]

    def weights(self) -> dict[str, Tensor]:
        """The recorded parameters, on the CPU."""
        return _tensors(self.path / _WEIGHTS, self.names)

    @contextmanager
    def load_into(self, model: nn.Module) -> Iterator[None]:
        """Give a model the recorded weights for as long as the context lasts, then its own back, bit by bit.

        Values are brought to the dtype and device of the model's parameters.

        Raises:
            ModelError: the model lacks a recorded parameter, or has it in another shape.
        """
        parameters = dict(model.named_parameters())
        weights = self.weights()
        _check_fit(self.path, weights, parameters)
        own = {name: parameters[name].data for name in weights}
        try:
            for name, value in weights.items():
                parameters[name].data = value.to(own[name])
            yield
        finally:
            for name, value in own.items():
                parameters[name].data = value

    def optimizer_state(self, name: str) -> AdamState:
        """What Adam held for a parameter.

        Raises:
            ConfigError: the parameter is not recorded, or its optimiser is not of the Adam family.
        """
        group = next((g for g in self._about["groups"] if name in g["names"]), None)
        if group is None or name not in self._about["steps"]:
            if name not in self.names:
                few = ", ".join(self.names[:5]) + (", …" if len(self.names) > 5 else "")
                raise ConfigError(f"{self.path} records no parameter {name!r}. It has {len(self.names)}: {few}.")
            raise ConfigError(
                f"{self.path} holds no moments for {name}: it was trained with {self.optimizer}, and only optimisers "
                "that keep exp_avg and exp_avg_sq (Adam, AdamW and their kin) have them. Train with one of these."
            )
        first, second = f"exp_avg.{name}", f"exp_avg_sq.{name}"
        found = _tensors(self.path / _MOMENTS, (first, second))
        return AdamState(
            exp_avg=found[first],
            exp_avg_sq=found[second],
            step=self._about["steps"][name],
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            eps=float(group["eps"]),
            weight_decay=float(group.get("weight_decay", 0.0)),
            learning_rate=float(group["learning_rate"]),
        )


def recorded_checkpoints(folder: Path | str) -> tuple[Recorded, ...]:
    """The whole records in a folder of `CheckpointRecorder`, by step. What is unfinished is left out.

    Raises:
        RunFolderError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(
            f"There is no folder {folder} with recorded checkpoints. Train with CheckpointRecorder(folder) among the "
            "callbacks of the Trainer, then give its folder."
        )
    found = [_read(path) for _, path in sorted(_step_folders(folder))]
    return tuple(record for record in found if record is not None)


def _step_folders(folder: Path) -> list[tuple[int, Path]]:
    matched = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [(int(match[1]), path) for match, path in matched if match and path.is_dir()]


def _read(path: Path) -> Recorded | None:
    """One record, or None where its files do not hold what they should."""
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        for file, expected in ((_WEIGHTS, about["weights"]), (_MOMENTS, about["moments"])):
            with safe_open(path / file, framework="pt") as tensors:  # refuses a file cut short
                if set(tensors.keys()) != set(expected):
                    return None
        return Recorded(path, about["step"], about["epoch"], about["optimizer"], tuple(about["weights"]))
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def _tensors(file: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in names}


def _check_fit(path: Path, weights: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    missing = [name for name in weights if name not in parameters]
    if missing:
        raise ModelError(
            f"{path} records {len(missing)} of {len(weights)} parameters that the model does not have, "
            f"{missing[0]} for one. Pass the model that was trained, wrapped in the same adapter."
        )
    for name, value in weights.items():
        if value.shape != parameters[name].shape:
            raise ModelError(
                f"{path} records {name} in shape {tuple(value.shape)}, and the model has it in "
                f"{tuple(parameters[name].shape)}. Pass the model that was trained."
            )
