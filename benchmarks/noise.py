"""Data with wrong labels: really noisy sets, and GLUE tasks with noise that is even, one-sided, or in hard texts."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from common import glue
from undertow.data import Samples, load_samples, plant_noise, stratified_subset
from undertow.data.sampling import ROW

# Share of one-sided flips that fall on the first class.
ONE_CLASS = 0.8
TEST = 1000


@dataclass(frozen=True)
class Noisy:
    """Rows with wrong labels, trusted rows, test rows, and the truth.

    Attributes:
        train: rows as they came about.
        trusted: rows with labels to be trusted.
        test: the same, for measuring.
        gold: right label of each training row, as class index.
    """

    train: Samples
    trusted: Samples
    test: Samples
    gold: np.ndarray

    def select(self, rows: np.ndarray) -> "Noisy":
        """The same with some of the training rows."""
        return replace(self, train=self.train.select(rows), gold=self.gold[rows])

    @property
    def wrong(self) -> np.ndarray:
        """Whether each training label is wrong."""
        found: np.ndarray = self.train.labels != self.gold
        return found


def real(folder: Path, seed: int, rows: int, trusted: int, *, again: bool = False) -> Noisy:
    """A set whose training rows carry ``label`` as it came about and ``gold``; other splits hold gold labels.

    Trusted rows are validation rows, or with ``again`` training rows labelled again, by their gold labels.
    """
    random = np.random.default_rng(seed)
    parts = {name: _lines(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    train = [parts["train"][i] for i in np.sort(random.permutation(len(parts["train"]))[:rows])]
    known = {row["label"] for row in train}
    train = [row for row in train if row["gold"] in known]
    kept = [row for row in parts["validation"] if row["label"] in known]
    chosen = [kept[i] for i in random.permutation(len(kept))[:trusted]]
    first = _samples(train, "training")
    others = [_samples(part, "trusted", first) for part in (chosen, [r for r in parts["test"] if r["label"] in known])]
    gold = np.array([first.classes.index(row["gold"]) for row in train])
    if again:
        chosen = random.permutation(len(train))[:trusted].tolist()
        table = {"text": [train[i]["text"] for i in chosen], "label": [train[i]["gold"] for i in chosen], ROW: chosen}
        known = load_samples(Dataset.from_dict(table), text="text", label="label", classes=first.classes)
        return Noisy(first, known, others[1], gold)
    return Noisy(first, others[0], others[1], gold)


def planted(data: Path, task: str, kind: str, level: float, seed: int, rows: int, trusted: int) -> Noisy:
    """A GLUE task with planted noise; trusted rows are the task's own validation rows."""
    train, validation = glue(data, task)
    both = stratified_subset(train, rows + TEST, seed=seed)
    order = np.random.default_rng(seed).permutation(len(both))
    clean, test = (both.select(np.sort(part)) for part in np.split(order, [rows]))
    return Noisy(plant(clean, kind, level, seed), stratified_subset(validation, trusted, seed=seed), test, clean.labels)


def plant(samples: Samples, kind: str, level: float, seed: int) -> Samples:
    """Wrong labels in a share of the rows: ``uniform``, ``one-sided`` or ``hard``."""
    if level == 0:
        return samples
    if kind == "uniform":
        return plant_noise(samples, level, seed=seed).samples
    random, n = np.random.default_rng(seed), len(samples)
    if kind == "one-sided":
        first = samples.labels == 0
        weight = np.where(first, ONE_CLASS / first.sum(), (1 - ONE_CLASS) / (~first).sum())
    else:
        weight = difficulty(samples)
    # Exponential clocks: a draw without replacement in which no weight can be used up.
    bad = np.argsort(random.exponential(size=n) / weight)[: round(level * n)]
    labels, classes = samples.labels.copy(), len(samples.classes)
    labels[bad] = (labels[bad] + random.integers(1, classes, size=len(bad))) % classes
    return samples.with_labels(labels)


def difficulty(samples: Samples) -> np.ndarray:
    """How probable a held-out bag-of-words classifier finds another label than the true one, squared."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [" ".join(parts) for parts in samples.inputs]
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    p = cross_val_predict(model, texts, samples.labels, method="predict_proba", cv=5)
    return np.maximum(1 - p[np.arange(len(samples)), samples.labels], 0.01) ** 2


def _lines(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        sys.exit(f"Missing: {file}. --data takes a folder with real/NAME and glue/TASK; undertow ships no data.")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _samples(rows: list[dict[str, str]], role: str, like: Samples | None = None) -> Samples:
    table = Dataset.from_pandas(pd.DataFrame(rows)[["text", "label"]], preserve_index=False)
    return load_samples(table, text="text", label="label", role=role, classes=None if like is None else like.classes)
