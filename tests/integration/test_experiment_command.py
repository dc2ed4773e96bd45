"""``undertow experiment``: a grid of tiny cells, killed, changed, broken and looked at."""

import errno
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import undertow as undertow_package
from undertow.errors import ConfigError, TrainingError
from undertow.pipeline.scorer import Scorer, Scoring
from undertow.study.cells import cells
from undertow.study.content import content
from undertow.study.experiment import found, lock_of
from undertow.study.launching import job, launch, wait
from undertow.study.reading import read_study
from undertow.study.tasks import task_data

from . import tiny
from .command import contents, undertow

CELL = ["model", "task", "noise", "rate", "seed"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    tiny.save_bert(path / "bert")
    for name, rows, seed in (("train", 60, 1), ("validation", 40, 2), ("test", 30, 3)):
        tiny.write(tiny.rows(rows, seed=seed), path / f"{name}.csv")
    return path


def study(place: Path, folder: Path, **changes: object) -> Path:
    """A study file beside which nothing is."""
    mine = {"name": "mine", "train": "train.csv", "validation": "validation.csv", "test": "test.csv"}
    asked = {
        "models": {"tiny": str(place / "bert")},
        "tasks": [{n: v if n == "name" else str(place / v) for n, v in mine.items()}],
        "noise": [{"kind": "uniform", "rate": 0.2}],
        "seeds": [0],
        "samples": 60,
        "estimators": ["tracin", "cosine"],
        "baselines": ["loss", "knn"],
        "layers": ["all", "head"],
        "aggregations": ["mean", {"name": "vote", "k": [0.2, 0.4]}],
        "cuts": [0.3],
        "retrain": {"estimators": ["cosine"], "aggregations": ["mean"], "layers": ["all"], "baselines": ["loss"]},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 0.01},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(asked))
    return file


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """A finished study of two cells: its file, its folder, and what was printed."""
    file = study(place, tmp_path_factory.mktemp("finished"), seeds=[0, 1])
    outcome = undertow("experiment", file)
    assert outcome.code == 0, outcome.err
    return file, file.with_suffix(""), outcome


@pytest.fixture
def copied(finished, tmp_path):
    """The same to be changed."""
    shutil.copytree(finished[1], tmp_path / "grid")
    return tmp_path


def test_every_choice_of_every_cell_is_there_once(finished):
    _, folder, outcome = finished
    table = pd.read_parquet(folder / "results.parquet")
    assert len(table.groupby(CELL)) == 2
    influence = table[table["kind"] == "influence"]
    assert len(influence) == 2 * 2 * 2 * 3  # cells x estimators x layers x (mean, vote with two k)
    assert not influence.duplicated([*CELL, "estimator", "layers", "aggregation", "k", "only"]).any()
    assert set(table.loc[table["kind"] == "baseline", "estimator"]) == {"loss", "knn"}
    controls = table[table["kind"] == "control"]
    assert sorted(controls["estimator"]) == sorted(["noisy", "oracle", "random"] * 2)
    acted = table["accuracy"].notna()
    assert acted.sum() == 2 * (3 + 2)
    assert table.loc[acted, "accuracy"].between(0, 1).all()
    assert "2 of 2 cells are done" in outcome.said
    for name in ("layers", "agreement", "costs"):
        assert len(pd.read_parquet(folder / f"{name}.parquet").groupby(CELL)) == 2
    costs = pd.read_parquet(folder / "costs.parquet")
    stages, methods = costs[costs["method"] == ""], costs[costs["method"] != ""]
    assert stages["stage"].tolist() == ["fine-tune", "influence", "outputs", "retraining"] * 2
    assert (stages[["seconds", "peak_memory_mb"]] > 0).all(axis=None)
    assert set(methods["stage"]) == {"influence"}
    assert {"gradients", "tracin", "cosine"} <= set(methods["method"])
    whole = stages["seconds"][stages["stage"] == "influence"]
    assert 0 < methods["seconds"].sum() < whole.sum()
    said = [line for line in outcome.err.splitlines() if line.startswith("Cell ")]
    assert said[0] == "Cell 1 of 2: tiny mine uniform 0.2 seed 0"
    assert re.fullmatch(r"Cell 2 of 2: tiny mine uniform 0\.2 seed 1; about [0-9].* left", said[1])


def test_measures_are_those_of_the_run(finished):
    from undertow.influence.store import open_influence
    from undertow.metrics.noise import noise_detection

    file, folder, _ = finished
    cell = cells(read_study(file))[0]
    run = cell.folder(folder) / "run"
    harm = Scorer(open_influence(run / "influence.zarr")).scores([Scoring("tracin", "head", "vote", 0.4)])[0].harm
    given = pd.read_parquet(run / "harm.parquet")["label"].to_numpy()
    true = tiny.rows(60, seed=1)["label"].to_numpy()
    curve = noise_detection(harm, given != true)
    table = pd.read_parquet(folder / "results.parquet")
    row = table.query("seed == 0 and estimator == 'tracin' and layers == 'head' and k == 0.4").iloc[0]
    assert (row["ndr30"], row["auc_ndr"]) == pytest.approx((curve.ndr(0.3), curve.auc))
    # Nothing that computes a harm was told what is planted.
    assert "planted" not in pd.read_parquet(run / "harm.parquet")


def test_a_finished_study_computes_nothing_again(finished):
    file, folder, _ = finished
    before = contents(folder / "cells")
    assert undertow("experiment", file).code == 0
    after = contents(folder / "cells")
    assert {n: s for n, s in after.items() if not n.endswith(".lock")} == {
        n: s for n, s in before.items() if not n.endswith(".lock")
    }


def test_a_changed_cut_trains_again_and_nothing_before(place, copied):
    file = study(place, copied, seeds=[0, 1], cuts=[0.5])
    runs = {n: s for n, s in contents(copied / "grid" / "cells").items() if "/run/" in n}
    kept = {n for n in contents(copied / "grid" / "cells") if "/retrained-" in n}
    outcome = undertow("experiment", file)
    assert outcome.code == 0, outcome.err
    after = contents(copied / "grid" / "cells")
    assert {n: s for n, s in after.items() if "/run/" in n and n in runs and "reductions" not in n} == {
        n: s for n, s in runs.items() if "reductions" not in n
    }
    assert kept < {n for n in after if "/retrained-" in n}
    table = pd.read_parquet(copied / "grid" / "results.parquet")
    assert set(table.loc[table["kind"] != "control", "cut"].dropna()) == {0.5}


def test_interrupted_it_goes_on_to_the_same_results(place, tmp_path, finished, monkeypatch):
    from undertow.study import running

    real = running.retrained

    def killed(*arguments, **options):
        if sum(1 for _ in (tmp_path / "grid").rglob("retrained-*/*.json")) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    file = study(place, tmp_path, seeds=[0, 1])
    monkeypatch.setattr(running, "retrained", killed)
    assert undertow("experiment", file).code == 130
    monkeypatch.setattr(running, "retrained", real)
    assert undertow("experiment", file).code == 0
    found, expected = (pd.read_parquet(f / "results.parquet") for f in (tmp_path / "grid", finished[1]))
    pd.testing.assert_frame_equal(found, expected)


def test_a_failed_cell_is_reported_and_the_others_go_on(place, tmp_path):
    other = {"name": "gone", "train": str(tmp_path / "gone.csv"), "validation": str(place / "validation.csv")}
    whole = {n: str(place / f"{n}.csv") for n in ("train", "validation", "test")}
    file = study(place, tmp_path, tasks=[other, {"name": "mine", **whole}], retrain=False)
    outcome = undertow("experiment", file)
    assert outcome.code == 1
    assert "tiny gone uniform 0.2 seed 0: " in outcome.out
    assert "gone.csv" in outcome.out
    assert "1 of 2 cells are done" in outcome.said
    assert "--retry" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
    again = undertow("experiment", file)  # passed over, and said again
    assert again.code == 1
    shutil.copy(place / "train.csv", tmp_path / "gone.csv")
    assert undertow("experiment", file, "--retry").code == 0


def test_status_computes_nothing(place, tmp_path, copied):
    file = study(place, tmp_path / "new", seeds=[0, 1])
    outcome = undertow("experiment", file, "--status")
    assert outcome.code == 0
    assert "0 of 2 cells are done" in outcome.said
    assert not (tmp_path / "new" / "grid").exists()
    more = study(place, copied, seeds=[0, 1, 2])
    outcome = undertow("experiment", more, "--status")
    assert "2 of 3 cells are done, " in outcome.said
    assert "left" in outcome.said


def test_a_cell_that_another_process_holds_is_left_to_it(place, tmp_path):
    file = study(place, tmp_path, retrain=False)
    cell, folder = cells(read_study(file))[0], tmp_path / "grid"
    folder.mkdir()
    (folder / "study.json").write_text("{}")
    with lock_of(cell, folder).acquire(timeout=0):
        outcome = undertow("experiment", file)
        assert "another process is at it" in outcome.err
        assert not (cell.folder(folder) / "run").exists()
    assert outcome.code == 0


def test_jobs_through_submitit(place, tmp_path):
    file = study(place, tmp_path, retrain=False)
    jobs = launch(read_study(file), tmp_path / "grid", "local")
    assert len(jobs) == 1
    wait(jobs)
    assert undertow("experiment", file, "--status").code == 0
    assert len(pd.read_parquet(tmp_path / "grid" / "results.parquet")) == 2 * 2 * 3 + 2
    assert launch(read_study(file), tmp_path / "grid", "local") == []


def test_a_job_whose_data_changed_after_it_was_submitted_says_so(place, tmp_path):
    shutil.copytree(place, tmp_path / "data")
    out = tmp_path / "grid"
    asked = read_study(study(tmp_path / "data", tmp_path, retrain=False))
    found(out, asked)  # as launching does before it submits
    (key,) = (cell.key for cell in cells(asked))
    with (tmp_path / "data" / "train.csv").open("a") as file:
        file.write("another row,good\n")
    content.cache_clear()
    with pytest.raises(ConfigError, match=f"{key} is no cell of the study in .* any more.*Submit the study again"):
        job(str(out), key)


@pytest.mark.parametrize("kind", ["pairs", "doubt", "words", "duplicates"])
def test_kinds_of_noise(kind, place, tmp_path):
    file = study(place, tmp_path, noise=[{"kind": kind, "rate": 0.2}], retrain=False, estimators=["cosine"])
    outcome = undertow("experiment", file)
    assert outcome.code == 0, outcome.out
    table = pd.read_parquet(tmp_path / "grid" / "results.parquet")
    assert set(table["noise"]) == {kind}
    assert table["ndr30"].notna().all()


def test_clean_data_has_nothing_to_find(place, tmp_path):
    file = study(place, tmp_path, noise=[{"kind": "uniform", "rate": 0}], estimators=["cosine"])
    assert undertow("experiment", file).code == 0
    table = pd.read_parquet(tmp_path / "grid" / "results.parquet")
    assert table["ndr30"].isna().all()
    assert "oracle" not in set(table["estimator"])


def test_really_noisy_data(place, tmp_path):
    rows = tiny.rows(60, seed=1)
    rows["true"] = rows["label"]
    rows.loc[:9, "label"] = np.where(rows.loc[:9, "label"] == "praise", "blame", "praise")
    tiny.write(rows, tmp_path / "noisy.csv")
    task = {"name": "mine", "train": str(tmp_path / "noisy.csv"), "validation": str(place / "validation.csv")}
    task |= {"test": str(place / "test.csv"), "label_column": "label", "true_label_column": "true"}
    file = study(place, tmp_path, tasks=[task], noise=[{"kind": "column"}], retrain=False, estimators=["cosine"])
    outcome = undertow("experiment", file)
    assert outcome.code == 0, outcome.out
    done = next((tmp_path / "grid" / "cells").glob("*/done.json"))
    assert yaml.safe_load(done.read_text())["planted"] == 10
    for name in ("results", "layers", "costs"):
        rates = pd.read_parquet(tmp_path / "grid" / f"{name}.parquet")["rate"]
        assert rates.tolist() == pytest.approx([10 / 60] * len(rates))
    assert "seed 0" in outcome.err
    assert "column 0.2" not in outcome.err + outcome.out


def test_every_fault_is_named_with_its_line(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "models: {a: b}\n"
        "tasks: [sst2, unknown]\n"
        "noise:\n"
        "  - {kind: uniform, rate: 1.5}\n"
        "estimators: [tracin, shapley]\n"
        "colour: red\n"
        "cuts: [2]\n"
        "training: {lr: 3}\n"
    )
    outcome = undertow("experiment", file)
    assert outcome.code == 2
    for words in (
        "has 6 faults",
        "Line 2: tasks.1",
        "Line 4: noise.0.rate (1.5)",
        "Line 5: estimators",
        "'shapley'",
        "Line 6: there is no 'colour'",
        "Line 7: cuts",
        "Line 8: training",
    ):
        assert words in outcome.complaint
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [a\n", "is not valid YAML"),
        ("- a\n", "holds list and not names with values"),
        ("models: !!python/object/apply:os.system [ls]\ntasks: [sst2]\n", "is not valid YAML"),
        ("models: {}\ntasks: [sst2]\n", "models"),
        ("tasks: [sst2]\n", "models is missing"),
        ("models: {a: b}\ntasks: [sst2, sst2]\n", "holds sst2 twice"),
        ("models: {a: b}\ntasks: [sst2]\nnoise: [{kind: transition}]\n", "transition: is given with"),
        ("models: {a: b}\ntasks: [sst2]\nnoise: [{kind: column}]\n", "true_label_column"),
        ("models: {a: b}\ntasks: [sst2]\nnoise: [{kind: column, rate: 0.1}]\n", "so rate: is left out"),
    ],
)
def test_bad_files(text, expected, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    outcome = undertow("experiment", file)
    assert outcome.code == 2
    assert expected in outcome.complaint


@pytest.mark.parametrize("name", ["paper", "small"])
def test_templates(name, tmp_path):
    file = tmp_path / "made.yaml"
    outcome = undertow("experiment", file, "--template", name)
    assert outcome.code == 0
    asked = read_study(file)
    assert asked.name == name
    if name == "paper":
        assert len(cells(asked)) == 4 * 8 * 10
        assert (asked.samples, asked.validation, asked.training["epochs"]) == (4500, 1000, 10)
        assert next(t for t in asked.tasks if t.name == "rte").training == {"learning_rate": 1e-3}
    before = file.read_bytes()
    outcome = undertow("experiment", file, "--template", name)
    assert outcome.code == 2
    assert "is not overwritten" in outcome.complaint
    assert file.read_bytes() == before
    assert undertow("experiment", "--template", name).out == before.decode()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "takes the YAML file of a study"),
        (("gone.yaml",), "gone.yaml cannot be read"),
        (("--template", "large"), "--template large is not known"),
    ],
)
def test_bad_calls(arguments, expected):
    outcome = undertow("experiment", *arguments)
    assert outcome.code == 2
    assert expected in outcome.complaint


def test_a_folder_of_something_else_is_left_alone(place, tmp_path):
    file = study(place, tmp_path)
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "mine.txt").write_text("mine")
    outcome = undertow("experiment", file)
    assert outcome.code == 2
    assert "nothing in it is touched" in outcome.complaint
    assert [p.name for p in (tmp_path / "grid").iterdir()] == ["mine.txt"]


def test_an_unknown_launcher(place, tmp_path):
    outcome = undertow("experiment", study(place, tmp_path), "--launcher", "carrier pigeon")
    assert outcome.code == 2
    assert "Known are: slurm, local" in outcome.complaint


def test_a_cluster_that_is_not_there(place, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = undertow("experiment", study(place, tmp_path), "--launcher", "slurm")
    assert outcome.code == 2
    assert "sbatch must be there" in outcome.complaint


def test_changed_content_is_computed_anew_and_moved_content_is_not(place, tmp_path):
    def grid(folder: Path, model: str) -> list[str]:
        whole = {n: str(folder / f"{n}.csv") for n in ("train", "validation", "test")}
        file = study(place, tmp_path, tasks=[{"name": "mine", **whole}], models={"tiny": model})
        return [cell.key for cell in cells(read_study(file))]

    for copy in ("here", "there", "changed"):
        shutil.copytree(place, tmp_path / copy)
    rows = pd.read_csv(place / "train.csv")
    rows.loc[0, "text"] += " indeed"
    rows.to_csv(tmp_path / "changed" / "train.csv", index=False)
    given = grid(tmp_path / "here", str(tmp_path / "here" / "bert"))
    assert grid(tmp_path / "there", str(tmp_path / "there" / "bert")) == given
    assert grid(tmp_path / "changed", str(tmp_path / "here" / "bert")) != given
    tiny.save_bert(tmp_path / "changed" / "bert", seed=1)
    assert grid(tmp_path / "here", str(tmp_path / "changed" / "bert")) != given


@pytest.mark.parametrize("how", ["plain", "passed on", "in words"])
def test_a_full_disk_ends_the_study_and_the_same_command_goes_on(how, place, tmp_path, monkeypatch):
    from undertow.study import running

    def fail(*_: object, **__: object) -> None:
        if how == "in words":
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if how == "plain":
                raise
            raise ValueError("could not save") from error

    file = study(place, tmp_path, seeds=[0, 1], retrain=False)
    real = running.harms
    monkeypatch.setattr(running, "harms", fail)
    outcome = undertow("experiment", file)
    assert outcome.code == 2
    assert "is full" in outcome.complaint
    assert not list((tmp_path / "grid").rglob("failed.json"))
    monkeypatch.setattr(running, "harms", real)
    assert undertow("experiment", file).code == 0


def test_a_training_that_diverges_leaves_the_rest_of_its_cell(place, tmp_path, monkeypatch):
    from undertow.study import retraining

    real = retraining.fine_tune_step

    def diverge(start, train, *arguments, **options):
        if len(train) == 48:  # without the planted rows: the oracle
            raise TrainingError("The loss is NaN.")
        return real(start, train, *arguments, **options)

    file = study(place, tmp_path)
    monkeypatch.setattr(retraining, "fine_tune_step", diverge)
    outcome = undertow("experiment", file)
    assert outcome.code == 1
    assert "1 of 5 trainings diverged: The loss is NaN." in outcome.out
    table = pd.read_parquet(tmp_path / "grid" / "results.parquet")
    assert table.loc[table["cut"].notna() & table["accuracy"].isna(), "estimator"].tolist() == ["oracle"]
    assert table["accuracy"].notna().sum() == 4
    monkeypatch.setattr(retraining, "fine_tune_step", real)
    assert undertow("experiment", file, "--retry").code == 0
    assert pd.read_parquet(tmp_path / "grid" / "results.parquet")["accuracy"].notna().sum() == 5


def test_what_is_wrong_together_is_named_beside_what_is_wrong_alone(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "models: {a: b}\n"
        "tasks:\n"
        "  - sst2\n"
        "  - sst2\n"  # 4
        "seeds: [0, 1, 0]\n"  # 5
        "layers: [all, head]\n"
        "cuts: [0.3]\n"
        "cuts: [2]\n"  # 8, twice over
        "retrain:\n"
        "  layers: [late]\n"  # 10
        "  estimators: [ekfac]\n"  # 11
        "compute: {device: cpu, colour: red}\n"  # 12
    )
    outcome = undertow("experiment", file)
    assert outcome.code == 2
    for words in (
        "has 7 faults",
        "Line 4: tasks holds sst2 twice",
        "Line 5: seeds holds 0 twice",
        "Line 8: cuts is there twice",
        "Line 8: cuts: 2 is no share",
        "Line 10: retrain.layers: late is not among the layers of the study: all, head",
        "Line 11: retrain.estimators: ekfac is not among",
        "Line 12: compute: compute does not take colour",
    ):
        assert words in outcome.complaint


def test_options_of_the_audit_reach_every_cell(place, tmp_path):
    from undertow.study.running import settings_of

    asked = {"gradient_dtype": "bfloat16", "track": ["lora"], "memory": 1.5}
    file = study(place, tmp_path, compute=asked, training={"epochs": 2, "accumulate": 2, "mixed_precision": "bf16"})
    cell = cells(read_study(file))[0]
    found = settings_of(cell)
    assert (found.gradient_dtype, found.track, found.memory) == ("bfloat16", ("lora",), 1.5)
    assert (found.epochs, found.accumulate, found.mixed_precision) == (2, 2, "bf16")
    assert cells(read_study(study(place, tmp_path)))[0].key != cell.key


def test_in_python_it_is_the_same(finished, place, tmp_path):
    file = study(place, tmp_path, seeds=[0, 1])
    state = undertow_package.experiment(file, finished[1])
    assert (len(state.done), state.failed, state.pending) == (2, {}, ())


def test_a_look_at_the_status_does_not_take_a_cell_away(place, tmp_path, monkeypatch):
    from undertow.study import experiment

    file, real = study(place, tmp_path, retrain=False), experiment.found

    def look(folder, asked):
        real(folder, asked)
        looking = lock_of(cells(asked)[0], folder)
        looking.acquire()
        threading.Timer(0.4, looking.release).start()

    monkeypatch.setattr(experiment, "found", look)
    outcome = undertow("experiment", file)
    assert "1 of 1 cells are done" in outcome.said, outcome.err


def test_rows_without_a_text_are_left_out(place, tmp_path):
    draw = tiny.rows(40, seed=5, pairs=True)
    table = pd.DataFrame({"question1": draw["premise"], "question2": draw["hypothesis"], "label": [0, 1] * 20})
    table.loc[[3, 7], ["question2"]] = ["", " "]
    (tmp_path / "glue" / "qqp").mkdir(parents=True)
    for split in ("train", "validation"):
        tiny.write(table, tmp_path / "glue" / "qqp" / f"{split}.jsonl")
    asked = read_study(study(place, tmp_path, data="glue", tasks=["qqp"], accuracy_on="selection"))
    data = task_data(asked, asked.tasks[0], seed=0)
    assert len(data.train) == 38
    assert all(text.strip() for text in data.train.text_pairs)


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """What squeue says of any job, by a command of that name."""

    def says(state: str, complaint: str = "") -> None:
        script = tmp_path / "bin" / "squeue"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\necho '{state}'\necho '{complaint}' >&2\nexit {int(bool(complaint))}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return says


def submitted_before(asked, folder):
    """A study whose one cell was submitted to SLURM."""
    note = cells(asked)[0].folder(folder) / "job.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"launcher": "slurm", "id": "12_0"}')
    (folder / "study.json").write_text("{}")


GONE = "slurm_load_jobs error: Invalid job id specified"


@pytest.mark.parametrize(
    ("state", "complaint", "submitted"),
    [("PENDING", "", 0), ("RUNNING", "", 0), ("TIMEOUT", "", 1), ("", "", 1), ("", GONE, 1)],
)
def test_a_cell_whose_job_still_waits_is_not_submitted_again(state, complaint, submitted, place, tmp_path, queue):
    asked, folder = read_study(study(place, tmp_path, retrain=False)), tmp_path / "grid"
    submitted_before(asked, folder)
    queue(state, complaint)
    jobs = launch(asked, folder, "local")
    assert len(jobs) == submitted
    for one in jobs:  # that they do their work is tested above
        one.handle.cancel()
    wait(jobs)


def test_a_queue_that_does_not_answer_submits_nothing(place, tmp_path, queue, monkeypatch):
    asked, folder = read_study(study(place, tmp_path, retrain=False)), tmp_path / "grid"
    submitted_before(asked, folder)
    queue("", "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(ConfigError, match=r"squeue says .*Unable to contact.*try again when SLURM answers"):
        launch(asked, folder, "local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="squeue does not answer"):
        launch(asked, folder, "local")
