"""Several processes on one audit: the same result as one, said once; failures end all of them."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import xarray as xr

from undertow.errors import UndertowError
from undertow.pipeline.ranks import Ranks, alone, current_ranks

from .command import undertow
from .conftest import long, run

PLACE = Path(sys.executable).parent
MODULE = ("-m", "undertow")
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", 2)
SCRIPT = (*TORCHRUN, "--no-python", PLACE / "undertow")
ACCELERATE = (
    *("accelerate", "launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1),
    *("--main_process_port", 0, *MODULE),  # a port that is free
)
LIMIT = 240  # seconds, several times what a loaded machine needs


def launched(launcher, *arguments, limit=LIMIT):
    """Run the command in two processes; they are gone when this returns."""
    command = [PLACE / launcher[0], *map(str, launcher[1:]), "audit", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    marks = str(arguments[-1])  # the run folder, which no other process has in its command line
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
    finally:
        left = [p for p in psutil.process_iter(["cmdline"]) if marks in (p.info["cmdline"] or [])]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert left == []


def same_results(folder, other, variables):
    """Bit by bit."""
    datasets = [xr.open_zarr(f / "influence.zarr", chunks=None) for f in (folder, other)]
    assert set(datasets[0].variables) == set(datasets[1].variables)
    for name in variables:
        first, second = (d[name].values for d in datasets)
        assert np.array_equal(first, second, equal_nan=True), (name, np.nanmax(np.abs(first - second)))
    tables = [pd.read_parquet(f / "harm.parquet") for f in (folder, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    stages = [json.loads((f / "run.json").read_text())["stages"]["influence"]["outputs"] for f in (folder, other)]
    assert [s["processes"] for s in stages] == [2, 1]
    assert stages[0]["modules"] == stages[1]["modules"]
    assert {p.name for p in folder.iterdir()} == {p.name for p in other.iterdir()}
    tables = [pd.read_parquet(f / "cancellation.parquet") for f in (folder, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def said_once(done, folder):
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows are flagged as most harmful.") == 1
    assert done.stdout.count(f"{folder / 'report.html'}") == 1
    assert done.stderr.count("influence of the modules") == 1
    assert "Warning" not in done.stderr
    assert "undertow: " not in done.stderr


@pytest.mark.timeout(300)
def test_fine_tuning_alone_and_the_rest_together(place, tmp_path):
    """The first process trains; estimators that follow a training read in all what it recorded. As the script."""
    ekfac = ",ekfac" if find_spec("kronfluence") else ""
    command = (*long(place, "bert"), "--estimator", f"tracin,cosine,datainf,tracincp,less{ekfac}", "--epochs", 2)
    done = launched(SCRIPT, *command, "--out", tmp_path / "two")
    said_once(done, tmp_path / "two")
    shown = {line.split("━")[0].strip(): line for line in done.stderr.splitlines()}
    assert "160/160" in shown["gradients of the samples"]
    assert "5/5" in shown["influence of the modules"]  # the other five of the ten are the other process's
    same_results(tmp_path / "two", run(tmp_path / "one", *command).folder, ["influence", "covered", "word_influence"])


@pytest.mark.timeout(300)
def test_a_trained_model_and_means_of_layer_groups(place, tmp_path):
    """Group means add up over modules: processes must not write over each other's."""
    command = (*long(place, "classifier"), "--finetune", "never", "--keep", "groups", "--estimator", "cosine,tracin")
    done = launched(ACCELERATE, *command, "--out", tmp_path / "two")
    said_once(done, tmp_path / "two")
    same_results(tmp_path / "two", run(tmp_path / "one", *command).folder, ["score", "group_influence", "query_loss"])


def test_bad_input_ends_all_with_one_message(place, tmp_path):
    started = time.monotonic()
    command = [*long(place, "bert"), "--out", tmp_path / "run"]
    command[command.index("--train") + 1] = tmp_path / "gone.csv"
    done = launched((*TORCHRUN, *MODULE), *command)
    assert done.returncode == 1  # torchrun's own, whatever its processes end with
    assert done.stdout == ""
    assert sum(line.startswith("undertow: ") for line in done.stderr.splitlines()) == 1
    assert "There is no file or folder" in done.stderr
    assert "/undertow/" not in done.stderr.replace(str(tmp_path), "")  # the launcher's own traceback is all there is
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - started < LIMIT / 2


@pytest.mark.parametrize(
    ("arguments", "code", "late"),
    [(("--version",), 0, False), (("audit", "--cut", "3"), 2, True), (("audit", "--colour", "red"), 2, True)],
)
def test_all_but_the_first_speak_late_and_of_failures_alone(arguments, code, late, monkeypatch, capsys):
    from undertow.cli import main as entry

    waited = []
    needed = ("--model", "m", "--train", "t", "--validation", "v", "--out", "r") if code else ()
    monkeypatch.setattr(sys, "argv", ["undertow", *arguments, *needed])
    monkeypatch.setattr(entry.time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as end:
        entry.run()
    assert (end.value.code or 0) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert waited == ([(entry.PATIENCE, "")] if late else [])
    assert (arguments[1] in said.err) if late else said.err == ""


# What processes say to each other, without any audit.


def told(index, port):
    """As a launcher tells a process who it is, where the first process holds the store."""
    own = {"RANK": index, "WORLD_SIZE": 3, "LOCAL_RANK": index, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    os.environ.update({name: str(value) for name, value in own.items()})
    return current_ranks()


def forked(target, *arguments):
    """Run in three processes that share what is loaded; gives what each put into the queue, by index."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.Queue()
    processes = [context.Process(target=target, args=(queue, i, port, *arguments)) for i in range(3)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    return [found[i] for i in range(3)]


def _meet(queue, index, port, folder):
    ranks = told(index, port)
    time.sleep(0.2 * index)
    arrived = time.monotonic()
    ranks.wait()
    left = time.monotonic()
    made = ranks.first_then(lambda: (folder / "made").touch() if ranks.first else (folder / "made").exists())
    with alone():
        inside = current_ranks()
    queue.put((index, (arrived, left, made, inside, current_ranks())))


def test_processes_meet_and_the_first_goes_first(tmp_path):
    seen = forked(_meet, tmp_path)
    # None goes on before the last is there.
    assert min(left for _, left, *_ in seen) >= max(arrived for arrived, *_ in seen)
    assert [made for *_, made, _, _ in seen] == [None, True, True]
    assert [inside for *_, inside, _ in seen] == [Ranks()] * 3  # a training does not see the others
    assert [after for *_, after in seen] == [Ranks(i, 3, i) for i in range(3)]


def _leave(queue, index, port):
    ranks = told(index, port)
    ranks.wait()
    if ranks.first:
        queue.put((index, "left"))
        return
    try:
        ranks.wait()
    except UndertowError as error:
        queue.put((index, str(error)))


def test_whoever_waits_for_a_process_that_is_gone_says_so():
    first, *others = forked(_leave)
    assert first == "left"
    for index, said in enumerate(others, start=1):
        assert said.startswith(f"Process {index} of 3 waited for the others, and the process that holds their store")


def test_several_processes_need_a_run_folder(place, monkeypatch):
    import undertow as package

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UndertowError, match="2 processes share one audit through its run folder"):
        package.audit("model", "train", "validation", progress=False)
    assert undertow("--version").code == 0
