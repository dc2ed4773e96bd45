"""The cells of a study: what each is, and where it is kept."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from undertow.study.config import Noise, Study, Task
from undertow.study.content import content, task_content

# Raised when a stage would come out differently for the same study: what it kept before is then computed anew.
VERSIONS = {"audit": 1, "measures": 2, "retraining": 1}
CELLS = "cells"
CELL_COLUMNS = ("model", "task", "noise", "rate", "seed")


@dataclass(frozen=True, eq=False)
class Cell:
    """One model on one task with one noise and one seed."""

    study: Study
    model: str
    task: Task
    noise: Noise
    seed: int

    @property
    def identity(self) -> dict[str, object]:
        """What tables name the cell by."""
        return dict(
            zip(CELL_COLUMNS, (self.model, self.task.name, self.noise.kind, self.noise.rate, self.seed), strict=True)
        )

    @property
    def label(self) -> str:
        """A name for people."""
        return f"{self.model} {self.task.name} {self.noise.label} seed {self.seed}"

    @cached_property
    def training(self) -> dict[str, Any]:
        """Options of its fine-tunings."""
        return {**self.study.training, **self.task.training, "seed": self.seed}

    @cached_property
    def key(self) -> str:
        """Folder of the cell: names, and a hash of all its training and influence depend on, with content of files."""
        s = self.study
        depends = {
            "model": content(s.models[self.model]),
            "data": task_content(s, self.task),
            "task": self.task.model_dump(mode="json", exclude={"train", "validation", "test", "training"}),
            "noise": self.noise.model_dump(mode="json"),
            "sizes": [s.samples, s.validation, s.test, s.accuracy_on],
            "training": self.training,
            "compute": s.compute,
            "estimators": s.estimators,
            "baselines": s.baselines,
            "version": VERSIONS["audit"],
        }
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", self.label)
        return f"{plain}-{digest(depends)}"

    @cached_property
    def measures_key(self) -> str:
        """Hash of what is measured of it, beside what its folder depends on."""
        s = self.study
        chosen = [s.layers, [a.model_dump(mode="json") for a in s.aggregations], s.only, VERSIONS["measures"]]
        return digest(chosen)

    def folder(self, out: Path) -> Path:
        """Where the cell is kept."""
        return out / CELLS / self.key


def digest(value: object) -> str:
    """A short hash of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def cells(study: Study) -> list[Cell]:
    """All cells, seed by seed, so that a study that is stopped has all models and tasks of the first seeds."""
    return [
        Cell(study, model, task, noise, seed)
        for seed in study.seeds
        for model in study.models
        for task in study.tasks
        for noise in study.noise
    ]
