"""The data of a cell: GLUE by name, prepared as Vitel & Chhabra did, or files of any classification data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset

from undertow.data import (
    Samples,
    check_same_inputs,
    has_class_positions,
    load_samples,
    read_table,
    split_validation,
    stratified_subset,
)
from undertow.errors import DataError
from undertow.study.config import GLUE, Study, Task

HUB = "nyu-mll/glue"
# First and second text of each task, by the hub's columns.
TEXTS: dict[str, tuple[str, str | None]] = {
    "sst2": ("sentence", None),
    "cola": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "qnli": ("question", "sentence"),
    "mnli": ("premise", "hypothesis"),
}
# Sentence pairs of STS-B from this similarity on are positive.
SIMILAR = 3.0
# Of MNLI, entailment and neutral are kept; contradiction is class 2.
KEPT_MNLI = (0, 1)
# RTE's validation rows are too few to be halved: all select the checkpoint, and all are queries.
UNDIVIDED = ("rte",)
# Fewer training rows left over than this measure no accuracy; then validation rows are held out for it.
ENOUGH = 200


@dataclass(frozen=True)
class TaskData:
    """The rows of a task in their roles.

    Attributes:
        train: training rows with the labels they came with.
        selection: chooses the checkpoint.
        queries: trusted rows.
        test: what accuracy is measured on.
        tested_on: which rows these are, in a few words.
        true_labels: true class of each training row, where a column says so.
    """

    train: Samples
    selection: Samples
    queries: Samples
    test: Samples
    tested_on: str
    true_labels: tuple[str, ...] | None = None


def task_data(study: Study, task: Task, seed: int) -> TaskData:
    """Read a task and split it, seeded.

    Raises:
        DataError: for files or a task that cannot be had, or rows that do not suffice.
    """
    full, validation, test = _sources(study, task)
    train = stratified_subset(full, study.samples, seed=seed)
    trusted = stratified_subset(validation, study.validation, seed=seed)
    true = None
    if task.true_label_column is not None:
        true = _column(train, task.true_label_column)
    if test is not None:
        selection, queries = _halves(task, trusted, seed)
        return TaskData(train, selection, queries, stratified_subset(test, study.test, seed=seed), "test file", true)
    if study.accuracy_on == "selection":
        selection, queries = _halves(task, trusted, seed)
        return TaskData(train, selection, queries, selection, "the rows that select the checkpoint", true)
    left = np.flatnonzero(~np.isin(full.rows, train.rows))
    if len(left) >= ENOUGH and task.true_label_column is None:
        selection, queries = _halves(task, trusted, seed)
        rest = stratified_subset(full.select(left), study.test, seed=seed)
        return TaskData(train, selection, queries, rest, "training rows that were not trained on", true)
    thirds = split_validation(trusted, holdout_share=1 / 3, seed=seed)
    assert thirds.holdout is not None
    return TaskData(train, thirds.selection, thirds.queries, thirds.holdout, "validation rows held out", true)


def _halves(task: Task, trusted: Samples, seed: int) -> tuple[Samples, Samples]:
    if task.train is None and task.name in UNDIVIDED:
        return trusted, trusted
    parts = split_validation(trusted, seed=seed)
    return parts.selection, parts.queries


def _sources(study: Study, task: Task) -> tuple[Samples, Samples, Samples | None]:
    """Training, validation and, where a file is given, test rows, in the same classes."""
    columns: dict[str, Any]
    if task.train is not None:
        columns = {"text": task.text_column, "text_pair": task.text_pair_column, "label": task.label_column}
        given: list[Any] = [task.train, task.validation, task.test]
    else:
        first, second = TEXTS[task.name]
        columns = {"text": first, "text_pair": second or "none", "label": "label"}
        given = [_glue(study, task.name, "train"), _glue(study, task.name, "validation"), task.test]
    train = load_samples(given[0], **columns, role="training")
    known: dict[str, Any] = {"classes": train.classes, "class_positions": has_class_positions(train)}
    others = []
    for role, source in zip(("validation", "test"), given[1:], strict=True):
        loaded = None if source is None else load_samples(source, **columns, **known, role=role)
        if loaded is not None:
            check_same_inputs(train, loaded)
        others.append(loaded)
    validation, test = others
    assert validation is not None
    return train, validation, test


def _glue(study: Study, name: str, split: str) -> Dataset:
    """One split of a GLUE task with two classes.

    Raises:
        DataError: when it cannot be had.
    """
    if study.data == "hub":
        part = "validation_matched" if (name, split) == ("mnli", "validation") else split
        try:
            table = load_dataset(HUB, name, split=part)
        except Exception as error:  # the hub library raises many kinds; all mean that it cannot be had
            raise DataError(
                f"The task {name} cannot be had from the hub ({HUB}): {str(error).splitlines()[0]}. Without a "
                "connection, give data: a folder with one folder a task."
            ) from error
    else:
        file = Path(study.data) / name / f"{split}.jsonl"
        if not file.is_file():
            raise DataError(
                f"{file} is missing. data: names a folder with TASK/train.jsonl and TASK/validation.jsonl for each "
                f"GLUE task of the study ({', '.join(GLUE)}), in the hub's columns."
            )
        table, _ = read_table(file)
    return two_classes(name, _with_texts(name, table))


def _with_texts(name: str, table: Dataset) -> Dataset:
    """The rows that have their texts: a few of QQP have none."""
    there = [column for column in TEXTS[name] if column in table.column_names]
    blank = np.zeros(len(table), dtype=bool)
    for column in there:
        blank |= np.array([not (text or "").strip() for text in table[column][:]], dtype=bool)
    return table.select(np.flatnonzero(~blank)) if blank.any() else table


def two_classes(name: str, table: Dataset) -> Dataset:
    """MNLI without contradiction; STS-B's similarity as a class. Other tasks as they are."""
    if name == "mnli":
        labels = np.asarray(table["label"][:])
        return table.select(np.flatnonzero(np.isin(labels, KEPT_MNLI))).cast_column("label", _integers())
    if name == "stsb":
        similar = [int(score >= SIMILAR) for score in table["label"][:]]
        return table.remove_columns("label").add_column("label", similar)
    return table


def _integers() -> Any:
    from datasets import Value

    return Value("int64")


def _column(samples: Samples, name: str) -> tuple[str, ...]:
    if name not in samples.table.column_names:
        raise DataError(
            f"{samples.source} has no column '{name}' with the true labels. Its columns are: "
            f"{', '.join(samples.table.column_names)}."
        )
    return tuple(map(str, samples.table[name][:]))
