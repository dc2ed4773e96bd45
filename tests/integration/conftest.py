"""Tiny models, data files, and the few whole runs that most tests look at; made once."""

from pathlib import Path
from typing import NamedTuple

import pytest

from . import tiny
from .command import Outcome, undertow

QUICK = ("--epochs", 1, "--batch-size", 16, "--learning-rate", 0.01)


class Place(NamedTuple):
    """A folder with models and data files."""

    path: Path

    def __call__(self, name: str) -> Path:
        return self.path / name


class Run(NamedTuple):
    """A finished run: how it was asked for, where it is and what it printed."""

    arguments: tuple[object, ...]
    folder: Path
    outcome: Outcome


def run(folder: Path, *arguments: object) -> Run:
    outcome = undertow("audit", *arguments, "--out", folder)
    assert outcome.code == 0, outcome.err
    return Run(arguments, folder, outcome)


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Place:
    path = tmp_path_factory.mktemp("place")
    tiny.save_bert(path / "bert")
    tiny.save_llama(path / "llama")
    # The order of its outputs is not that of the alphabet.
    tiny.save_bert(path / "classifier", ("shrug", "praise", "blame"))
    tiny.write(tiny.rows(60, seed=1), path / "train.csv")
    tiny.write(tiny.rows(30, seed=2), path / "validation.jsonl")
    tiny.write(tiny.rows(24, seed=3), path / "test.parquet")
    tiny.write(tiny.rows(48, seed=4, pairs=True), path / "pairs.jsonl")
    tiny.write(tiny.rows(24, seed=5, pairs=True), path / "pairs-validation.csv")
    # Gradients of these take several batches, which processes share and an interruption falls between.
    tiny.write(tiny.rows(160, seed=8, words=(20, 40)), path / "long.csv")
    tiny.write(tiny.rows(160, seed=9, words=(20, 40)), path / "long-validation.csv")
    return Place(path)


@pytest.fixture
def asked(place) -> tuple[object, ...]:
    return quick(place)


def quick(place: Place) -> tuple[object, ...]:
    """A plain command that works, but for --out."""
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    return ("--model", place("bert"), *files, *QUICK)


def long(place: Place, model: str) -> tuple[object, ...]:
    """A command whose gradients take several batches."""
    files = ("--train", place("long.csv"), "--validation", place("long-validation.csv"))
    return ("--model", place(model), *files, *QUICK)


@pytest.fixture(scope="session")
def full(place, tmp_path_factory) -> Run:
    """Planted noise, all estimators, retraining, compared on a test source."""
    more = ("--test", place("test.parquet"), "--plant", 0.2, "--retrain", "--estimator", "tracin,cosine,datainf")
    return run(tmp_path_factory.mktemp("runs") / "full", *quick(place), *more)


@pytest.fixture(scope="session")
def plain(place, tmp_path_factory) -> Run:
    """Nothing but the defaults, on a decoder without pad token and pairs of texts."""
    files = ("--train", place("pairs.jsonl"), "--validation", place("pairs-validation.csv"))
    return run(tmp_path_factory.mktemp("runs") / "plain", "--model", place("llama"), *files, *QUICK)


@pytest.fixture
def refused_early(place, tmp_path):
    """Run a command that must fail before anything is trained or computed."""

    def refuse(*more, model=None):
        command = [*quick(place), *more, "--out", tmp_path / "run"]
        command[1] = model or command[1]
        outcome = undertow("audit", *command)
        assert outcome.code == 2, outcome.err
        assert outcome.out == ""
        bars = ("fine-tuning", "gradients of")
        assert not any(line.startswith(bars) for line in outcome.err.splitlines()), outcome.err
        assert not (tmp_path / "run").exists()
        return outcome.complaint

    return refuse
