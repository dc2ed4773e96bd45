"""Interruptions of the influence stage: what was computed is kept, and the result is the same bit by bit."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from undertow.gradients.store import GradientStore
from undertow.influence.store import InfluenceWriter
from undertow.pipeline import audit

from .command import undertow
from .conftest import long, run

INTERRUPTED = "undertow: interrupted. The same command goes on where this one stopped."
ROWS = 160
FOLLOWED = ("--estimator", "tracin,cosine,tracincp")
GIVEN = ("--finetune", "never", "--estimator", "cosine,datainf")


@pytest.fixture(scope="module")
def wholes(place, tmp_path_factory):
    """Both commands, run to the end at once; and the first one stopped when it had trained."""
    path = tmp_path_factory.mktemp("whole")
    commands = {"trained here": (*long(place, "bert"), *FOLLOWED), "given": (*long(place, "classifier"), *GIVEN)}
    found = {name: (command, run(path / name, *command).folder) for name, command in commands.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "influence_step", lambda *a, **b: signal.raise_signal(signal.SIGINT))
        command = commands["trained here"]
        assert undertow("audit", *command, "--out", path / "begun" / "trained here").code == 130
    (path / "begun" / "given").mkdir()
    return found, path / "begun"


def in_gradients(patch, end, name):
    """End in the middle of writing the second batch of samples of a store."""
    whole, batches = GradientStore.commit, []

    def commit(store, batch, *rest):
        if store.samples == ROWS and store.folder.parent.name == name:
            batches.append(batch)
            if len(batches) == 2:
                for column in store._columns[:3]:
                    column.commit(batch)
                end()
        whole(store, batch, *rest)

    patch.setattr(GradientStore, "commit", commit)


def in_products(patch, end):
    """End between two estimators of the fourth module."""
    whole = InfluenceWriter.write

    def write(writer, estimator, module, queries, block):
        whole(writer, estimator, module, queries, block)
        if (estimator, module) == (0, 3):
            end()

    patch.setattr(InfluenceWriter, "write", write)


POINTS = {
    "gradients": lambda patch, end: in_gradients(patch, end, "gradients"),
    "checkpoint": lambda patch, end: in_gradients(patch, end, "step-10"),
    "products": in_products,
}


def _stopped(queue, point, how, arguments):
    with pytest.MonkeyPatch.context() as patch:
        POINTS[point](patch, lambda: os.kill(os.getpid(), how))
        queue.put(undertow("audit", *arguments))


def stopped(point, how, arguments):
    """Run a command in a process that shares what is loaded, and is sent a signal at some point."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_stopped, args=(queue, point, how, arguments))
    process.start()
    process.join(120)
    if how == signal.SIGKILL:
        assert process.exitcode == -signal.SIGKILL
        return
    assert process.exitcode == 0
    outcome = queue.get()
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in outcome.err


@pytest.fixture
def computed(monkeypatch):
    """What is computed from here on: samples by the store of their gradients, and modules that were completed."""
    whole, complete, seen = GradientStore.commit, InfluenceWriter.complete, {}

    def commit(store, batch, *rest):
        if store.samples == ROWS:
            seen.setdefault(store.folder.parent.name, []).extend(batch.positions.tolist())
        whole(store, batch, *rest)

    def completed(writer, module):
        seen.setdefault("modules", []).append(module)
        complete(writer, module)

    monkeypatch.setattr(GradientStore, "commit", commit)
    monkeypatch.setattr(InfluenceWriter, "complete", completed)
    return seen


CASES = [
    ("trained here", "gradients", signal.SIGKILL),
    ("trained here", "checkpoint", signal.SIGINT),
    ("trained here", "products", signal.SIGINT),
    ("trained here", "products", signal.SIGKILL),
    ("given", "gradients", signal.SIGINT),
    ("given", "gradients", signal.SIGKILL),
    ("given", "products", signal.SIGINT),
    ("given", "products", signal.SIGKILL),
]


@pytest.mark.parametrize(("model", "point", "how"), CASES, ids=[f"{m}-{p}-{s.name}" for m, p, s in CASES])
def test_goes_on_where_it_stopped(model, point, how, wholes, tmp_path, computed):
    commands, begun = wholes
    command, whole = commands[model]
    folder = shutil.copytree(begun / model, tmp_path / "run")
    stopped(point, how, (*command, "--out", folder))
    assert (folder / "gradients").is_dir()
    assert computed == {}  # that was another process

    ended = undertow("audit", *command, "--out", folder)
    assert ended.code == 0, ended.err
    assert "fine-tuning" not in ended.err
    same_tensor(folder, whole)
    pd.testing.assert_frame_equal(*(pd.read_parquet(f / "harm.parquet") for f in (folder, whole)), check_exact=True)
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}

    modules = computed.pop("modules")
    count = len(json.loads((folder / "run.json").read_text())["stages"]["influence"]["outputs"]["modules"])
    assert modules == list(range(3 if point == "products" else 0, count))
    missing = {name: ROWS - len(rows) for name, rows in computed.items()}
    if point == "products":
        assert computed == {}
    elif point == "checkpoint":
        assert set(computed) == {"step-10"}
        assert 10 < missing["step-10"] < 100
    else:
        assert 10 < missing["gradients"] < 100  # one batch of about a sixth was whole
        assert all(len(set(rows)) == len(rows) for rows in computed.values())


def same_tensor(folder, whole):
    datasets = [xr.open_zarr(f / "influence.zarr", chunks=None) for f in (folder, whole)]
    assert set(datasets[0].variables) == set(datasets[1].variables)
    for name in datasets[0].variables:
        assert np.array_equal(datasets[0][name].values, datasets[1][name].values), name
    assert np.isfinite(datasets[0]["influence"].values).all()
    assert datasets[0].attrs == datasets[1].attrs
    tables = [pd.read_parquet(f / "cancellation.parquet") for f in (folder, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
