"""Interruptions: the same command goes on, and ends with what an uninterrupted run gives."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from undertow.errors import ModelError
from undertow.pipeline import audit, model, page, retrain
from undertow.training import finetune

from . import tiny
from .command import contents, undertow
from .conftest import quick, run

# Enough epochs that a signal after the first one comes in the middle.
MORE = ("--epochs", 3, "--retrain")
INTERRUPTED = "undertow: interrupted. The same command goes on where this one stopped."


def start(*arguments):
    command = [Path(sys.executable).with_name("undertow"), "audit", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stages(folder):
    file = folder / "run.json"
    return list(json.loads(file.read_text())["stages"]) if file.is_file() else []


def stop(process, when, how):
    """Send a signal as soon as something is the case; returns what was printed."""
    try:
        while process.poll() is None and not when():
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()
        process.send_signal(how)
        return process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.mark.timeout(300)
def test_killed_and_interrupted_runs_end_as_if_nothing_had_happened(tmp_path, asked):
    folder = tmp_path / "run"
    command = [*asked[:6], *MORE, "--out", folder]
    checkpoints = folder / "checkpoints" / "as-given"

    killed = start(*command)
    stop(killed, lambda: any(checkpoints.glob("*/trainer_state.json")), signal.SIGKILL)
    assert stages(folder) == []
    other = undertow("audit", *command, "--cut", 0.1)
    assert other.code == 2  # training that was paid for is not thrown away for another configuration
    assert "holds a run with another configuration (cut was not given, now 0.1)" in other.complaint

    # A kill can also come while a checkpoint is written.
    newest = max(checkpoints.iterdir(), key=lambda c: int(c.name.split("-")[1]))
    half = newest.with_name(f"checkpoint-{int(newest.name.split('-')[1]) + 4}")
    shutil.copytree(newest, half)
    (half / "trainer_state.json").write_text("{")

    interrupted = start(*command)
    out, err = stop(interrupted, lambda: "influence" in stages(folder), signal.SIGINT)
    assert interrupted.returncode == 130, err
    assert stages(folder)[:2] == ["fine-tune", "influence"]
    assert "outputs" not in stages(folder)
    assert out == ""
    assert err.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in err
    assert "[transformers]" not in err
    assert "Warning" not in err

    ended = undertow("audit", *command)
    assert ended.code == 0
    assert f"Going on with the run in {folder}; done before: fine-tune, influence" in ended.err
    assert "fine-tuning" not in ended.err
    whole = run(tmp_path / "whole", *command[:-2])
    same_results(folder, whole.folder)


def same_harm(first, second):
    tables = [pd.read_parquet(folder / "harm.parquet") for folder in (first, second)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def same_results(first, second):
    same_harm(first, second)
    told = [json.loads((folder / "run.json").read_text())["results"] for folder in (first, second)]
    assert told[0] == told[1]
    assert {p.name for p in first.iterdir()} == {p.name for p in second.iterdir()}


@pytest.mark.parametrize("other", [ImportError, ModelError])
def test_an_interruption_that_comes_out_as_another_error(asked, tmp_path, monkeypatch, other):
    """As where it meets compiled code that is being imported, or a check that catches everything."""

    def interrupted(*arguments, **named):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as cause:
            raise other("initialization failed") from cause

    monkeypatch.setattr(audit, "influence_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    stopped = undertow("audit", *asked, "--out", tmp_path / "run")
    assert (stopped.code, stopped.err.splitlines()[-1]) == (130, INTERRUPTED)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("point", ["save_adapter", "influence_step", "_keep_predictions", "write_page"])
def test_interrupted_at_any_stage(point, asked, tmp_path, monkeypatch, plainly):
    """Wherever it stops, the next call ends with the same tables."""
    where = {"save_adapter": model, "influence_step": audit, "_keep_predictions": retrain, "write_page": page}[point]
    whole = getattr(where, point)

    def interrupted(*arguments, **named):
        whole(*arguments, **named)
        signal.raise_signal(signal.SIGINT)

    retrain_too = ["--retrain"] if point == "_keep_predictions" else []
    command = (*asked, *retrain_too, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(where, point, interrupted)
        first = undertow("audit", *command)
    assert first.code == 130
    assert first.err.splitlines()[-1] == INTERRUPTED
    assert first.out == ""
    assert undertow("audit", *command).code == 0
    same_harm(tmp_path / "run", plainly)


@pytest.fixture(scope="module")
def plainly(place, tmp_path_factory):
    return run(tmp_path_factory.mktemp("plainly") / "run", *quick(place)).folder


def test_a_moved_run_goes_on(place, asked, tmp_path, monkeypatch):
    """The best checkpoint is found again although its path changed."""

    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    # A rate so high that the loss soon rises: the best epoch is not the last.
    command = (*asked, "--epochs", 3, "--learning-rate", 0.3)
    whole = run(tmp_path / "whole", *command).folder
    assert json.loads((whole / "run.json").read_text())["stages"]["fine-tune"]["outputs"]["best_epoch"] < 3
    with monkeypatch.context() as patch:
        patch.setattr(finetune.Trainer, "_load_best_model", interrupted)
        assert undertow("audit", *command, "--out", tmp_path / "before").code == 130
    (tmp_path / "before").rename(tmp_path / "after")
    assert undertow("audit", *command, "--out", tmp_path / "after").code == 0
    same_harm(tmp_path / "after", whole)


def test_data_that_changed_in_between(place, asked, tmp_path, monkeypatch):
    train = tmp_path / "train.csv"
    shutil.copy(place("train.csv"), train)
    arguments = [*asked, "--out", tmp_path / "run"]
    arguments[arguments.index("--train") + 1] = train
    assert undertow("audit", *arguments).code == 0
    before = contents(tmp_path / "run")
    train.write_text(train.read_text().replace("soup", "tea"))
    outcome = undertow("audit", *arguments)
    assert outcome.code == 2
    assert "was started with another content of: training." in outcome.complaint
    assert "--overwrite" in outcome.complaint
    assert contents(tmp_path / "run") == before


def test_a_model_that_changed_in_between(asked, tmp_path, monkeypatch):
    saved = tiny.save_bert(tmp_path / "model")
    arguments = [*asked, "--out", tmp_path / "run"]
    arguments[arguments.index("--model") + 1] = saved
    with monkeypatch.context() as patch:
        patch.setattr(audit, "influence_step", lambda *a, **b: signal.raise_signal(signal.SIGINT))
        assert undertow("audit", *arguments).code == 130
    tiny.save_bert(saved, seed=1)
    outcome = undertow("audit", *arguments)
    assert outcome.code == 2
    assert "was started with another content of: model." in outcome.complaint
