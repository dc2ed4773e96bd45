"""--gradients FOLDER: later runs use what is there, as long as model, data and what is tracked are the same."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from undertow.gradients.store import GradientStore

from . import tiny
from .command import contents, undertow
from .conftest import run

QUERIES, SAMPLES = 15, 60


@pytest.fixture(scope="module")
def command(place):
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    return ("--model", place("classifier"), *files, "--finetune", "never")


@pytest.fixture(scope="module")
def first(command, tmp_path_factory):
    """A folder that a run has left its gradients in."""
    path = tmp_path_factory.mktemp("first")
    made = run(path / "run", *command, "--gradients", path / "kept")
    assert not (made.folder / "gradients").exists()
    return path / "kept"


@pytest.fixture
def computed(monkeypatch):
    """How many rows pass through the model for their gradients, by the number of rows of the set."""
    whole, seen = GradientStore.commit, {}

    def commit(store, batch, *rest):
        seen[store.samples] = seen.get(store.samples, 0) + len(batch.positions)
        whole(store, batch, *rest)

    monkeypatch.setattr(GradientStore, "commit", commit)
    return seen


def tensor(folder):
    with xr.open_zarr(folder / "influence.zarr", chunks=None) as dataset:
        return dataset["influence"].load()


def copied(folder, path):
    """A copy, so that each test finds what the first run left."""
    return shutil.copytree(folder, path)


def test_other_estimators_need_no_pass_through_the_model(command, first, tmp_path, computed):
    kept = copied(first, tmp_path / "kept")
    more = ("--estimator", "tracin,datainf", "--aggregate", "vote", "--cut", 0.1)
    reused = run(tmp_path / "reused", *command, *more, "--gradients", kept).folder
    assert computed == {}
    fresh = run(tmp_path / "fresh", *command, *more).folder
    assert computed == {QUERIES: QUERIES, SAMPLES: SAMPLES}
    assert np.array_equal(tensor(reused).values, tensor(fresh).values)
    tables = [pd.read_parquet(f / "harm.parquet") for f in (reused, fresh)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {p.name for p in kept.iterdir()} == {"queries", "samples"}
    # What was kept is what it was: a run reads it and changes nothing.
    assert {name: size for name, (size, _) in contents(kept).items()} == {
        name: size for name, (size, _) in contents(first).items()
    }


def changed_text(path, place):
    table = tiny.rows(60, seed=1)
    table.loc[7, "text"] = "the lamp was lovely"
    return {"--train": tiny.write(table, path / "changed.csv")}


def changed_label(path, place):
    table = tiny.rows(60, seed=1)
    table.loc[7, "label"] = "praise"
    return {"--train": tiny.write(table, path / "changed.csv")}


def changed_weights(path, place):
    return {"--model": tiny.save_bert(path / "other", ("shrug", "praise", "blame"), seed=1)}


CHANGES = {
    "text": (changed_text, {SAMPLES: SAMPLES}),
    "label": (changed_label, {SAMPLES: SAMPLES}),
    "weights": (changed_weights, {QUERIES: QUERIES, SAMPLES: SAMPLES}),
    "precision": (lambda path, place: {"--gradient-dtype": "bfloat16"}, {QUERIES: QUERIES, SAMPLES: SAMPLES}),
    "modules": (lambda path, place: {"--track": "norm"}, {QUERIES: QUERIES, SAMPLES: SAMPLES}),
    "projection": (lambda path, place: {"--project": 4}, {QUERIES: QUERIES, SAMPLES: SAMPLES}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_computed_anew(change, command, first, place, tmp_path, computed):
    make, expected = CHANGES[change]
    kept = copied(first, tmp_path / "kept")
    told = dict(zip(command[::2], command[1::2], strict=True)) | make(tmp_path, place)
    asked = [part for pair in told.items() for part in pair]
    reused = run(tmp_path / "reused", *asked, "--gradients", kept).folder
    assert computed == expected
    fresh = run(tmp_path / "fresh", *asked).folder
    assert np.array_equal(tensor(reused).values, tensor(fresh).values)


def test_gradients_at_checkpoints_do_not_stay(place, tmp_path):
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    more = ("--estimator", "tracincp,cosine", "--epochs", 2, "--batch-size", 16, "--gradients", tmp_path / "kept")
    made = run(tmp_path / "run", "--model", place("bert"), *files, *more)
    assert "step 8: gradients of the samples" in made.outcome.err
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"queries", "samples"}
    assert json.loads((made.folder / "run.json").read_text())["configuration"]["gradients"] == str(tmp_path / "kept")


def refused(command, folder, tmp_path):
    before = contents(tmp_path)
    outcome = undertow("audit", *command, "--gradients", folder, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()
    return outcome.complaint


def test_folders_that_are_no_place_for_gradients(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    said = refused(command, tmp_path / "mine", tmp_path)
    assert "holds files that are not gradients (thesis.tex), and nothing in it is touched" in said
    assert "cannot be used: File exists" in refused(command, tmp_path / "mine" / "thesis.tex", tmp_path)
    assert "cannot be used: " in refused(command, "/proc/undertow", tmp_path)
    for inside in ("run", "run/gradients"):
        assert "lies in the run folder" in refused(command, tmp_path / inside, tmp_path)


def test_files_of_others_where_gradients_belong(command, tmp_path):
    (tmp_path / "kept" / "samples").mkdir(parents=True)
    (tmp_path / "kept" / "samples" / "survey.csv").write_text("mine")
    outcome = undertow("audit", *command, "--gradients", tmp_path / "kept", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "samples holds files that are not a gradient cache, and nothing in it is touched" in outcome.complaint
    assert (tmp_path / "kept" / "samples" / "survey.csv").read_text() == "mine"
