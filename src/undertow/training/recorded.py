"""Reading a recorded training: weights, learning rates and the state of Adam, step by step."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from undertow.errors import ConfigError, ModelError, RunFolderError

# The files of a step's folder; `checkpoints.py` writes them.
WEIGHTS, MOMENTS, ABOUT = "weights.safetensors", "moments.safetensors", "record.json"
_NAME = re.compile(r"step-(\d+)")


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
        about: dict[str, Any] = json.loads((self.path / ABOUT).read_text(encoding="utf-8"))
        return about

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rate of this step by parameter: the one that led to these weights."""
        return self._by_parameter("learning_rate")

    @property
    def mean_learning_rates(self) -> dict[str, float]:
        """Mean learning rate of the steps since the record before (or the beginning), by parameter."""
        return self._by_parameter("mean_learning_rate")

    @property
    def learning_rate(self) -> float:
        """The learning rate of this step.

        Raises:
            ConfigError: parameters were trained at different rates.
        """
        return self._single("learning_rates")

    @property
    def mean_learning_rate(self) -> float:
        """The mean learning rate of the steps since the record before: what weighs a checkpoint in LESS.

        A schedule that ends at 0 leaves the last step next to none, whatever its epoch did.

        Raises:
            ConfigError: parameters were trained at different rates.
        """
        return self._single("mean_learning_rates")

    def _by_parameter(self, key: str) -> dict[str, float]:
        return {name: float(g[key]) for g in self._about["groups"] for name in g["names"]}

    def _single(self, which: str) -> float:
        rates = sorted(set(getattr(self, which).values()))
        if len(rates) != 1:
            raise ConfigError(
                f"{self.path} records {len(rates)} learning rates ({', '.join(f'{r:g}' for r in rates[:5])}), so there "
                f"is not one of them. Read {which}, which has that of each parameter."
            )
        return float(rates[0])

    def weights(self) -> dict[str, Tensor]:
        """The recorded parameters, on the CPU."""
        return _tensors(self.path / WEIGHTS, self.names)

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
        found = _tensors(self.path / MOMENTS, (first, second))
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
    found = [_read(path) for _, path in sorted(step_folders(folder))]
    return tuple(record for record in found if record is not None)


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """The folders of recorded steps, whole or not, with their steps."""
    matched = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [(int(match[1]), path) for match, path in matched if match and path.is_dir()]


def _read(path: Path) -> Recorded | None:
    """One record, or None where its files do not hold what they should."""
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        for file, expected in ((WEIGHTS, about["weights"]), (MOMENTS, about["moments"])):
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
