"""Baselines through the command: all at once, and what one of them cannot do with, said before anything is computed."""

import json

import numpy as np
import pandas as pd
import pytest

import undertow
from undertow.baselines.names import BASELINE_NAMES
from undertow.errors import ConfigError, DataError
from undertow.gradients.store import GradientStore
from undertow.pipeline.gradients import Places

from . import tiny
from .command import undertow as undertow_command
from .conftest import quick, run
from .test_library import classifier

FOLLOW_A_TRAINING = ("aum", "forgetting")


@pytest.fixture(scope="module")
def every(place, tmp_path_factory):
    """Fine-tuned in the audit, with planted noise, and every text labelled by two annotators."""
    folder = tmp_path_factory.mktemp("annotated")
    rows = tiny.rows(30, seed=1)
    tiny.write(pd.concat([rows.assign(annotator=name) for name in ("a", "b")]), folder / "train.csv")
    arguments = list(quick(place))
    arguments[arguments.index("--train") + 1] = folder / "train.csv"
    more = ("--epochs", 3, "--plant", 0.2, "--baseline", ",".join(BASELINE_NAMES))
    return run(folder / "run", *arguments, *more)


def test_every_baseline_in_one_command(every):
    table = pd.read_parquet(every.folder / "harm.parquet")
    harms = table[[f"baseline_{name}" for name in BASELINE_NAMES]]
    assert np.isfinite(harms.to_numpy()).all()
    assert (harms.nunique() > 1).all()
    assert table["baseline_loss"].tolist() == table["loss"].tolist()
    margins = np.load(every.folder / "dynamics.npy")
    assert margins.shape == (3, 60)
    assert table["baseline_aum"].to_numpy() == pytest.approx(-margins.mean(0), rel=1e-6)
    results = json.loads((every.folder / "run.json").read_text())["results"]
    assert {d["name"] for d in results["detections"]} >= {"audit", *BASELINE_NAMES}


@pytest.mark.parametrize("name", FOLLOW_A_TRAINING)
@pytest.mark.parametrize("when", ["auto", "never"])
def test_baselines_that_follow_a_training_that_was_not(name, when, refused_early, place):
    said = refused_early("--finetune", when, "--baseline", f"loss,{name}", model=place("classifier"))
    assert f"The baseline {name} reads the margins of each row during fine-tuning" in said
    assert "this model is not fine-tuned here" in said
    assert f"Pass --finetune always, or leave out {name}." in said


@pytest.mark.parametrize(
    ("name", "expected"), [("outlier", "No query is of class 2"), ("repsim", "0 of 12 queries are of class 2")]
)
def test_labels_that_a_baseline_cannot_do_with(name, expected, refused_early, tmp_path):
    queries = tiny.write(tiny.rows(12, seed=6, classes=("praise", "blame")), tmp_path / "queries.csv")
    assert expected in refused_early("--queries", queries, "--baseline", name)


def test_a_plan_refuses_them_too(place):
    command = [*quick(place), "--finetune", "never", "--baseline", "forgetting"]
    command[1] = place("classifier")
    outcome = undertow_command("plan", *command)
    assert outcome.code == 2
    assert "The baseline forgetting reads the margins" in outcome.complaint


# As a library, where a step is called alone.


@pytest.fixture
def given(monkeypatch):
    """What an influence step takes; it fails as soon as gradients are to be kept."""

    def never(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr(GradientStore, "__init__", never)
    train = undertow.load_samples(tiny.rows(60, seed=1))
    queries = undertow.load_samples(tiny.rows(24, seed=2), classes=train.classes, role="validation")
    return classifier(), tiny.tokenizer(), train, queries


def settings(*baselines, **more):
    return undertow.AuditSettings(baselines=baselines, **more)


def test_margins_that_are_not_there_or_of_other_rows(given, tmp_path):
    file = tmp_path / "dynamics.npy"
    with pytest.raises(ConfigError, match=r"aum reads the margins .* or leave out aum and forgetting"):
        undertow.influence_step(*given, settings("loss", *FOLLOW_A_TRAINING))
    with pytest.raises(ConfigError, match=r"dynamics.npy, which fine-tuning left .* cannot be read"):
        undertow.influence_step(*given, settings("aum"), places=Places(dynamics=file))
    np.save(file, np.zeros((2, 59), dtype=np.float32))
    with pytest.raises(ConfigError, match="margins of 59 rows, and there are 60"):
        undertow.influence_step(*given, settings("forgetting"), places=Places(dynamics=file))
    np.save(file, np.zeros((2, 60), dtype=np.float32))
    with pytest.raises(AssertionError, match="something was computed"):
        undertow.influence_step(*given, settings("forgetting"), places=Places(dynamics=file))


def test_labels_and_memory_that_do_not_do(given):
    few = tiny.rows(24, seed=2, classes=("praise", "blame"))
    queries = undertow.load_samples(few, classes=given[2].classes, role="validation")
    with pytest.raises(DataError, match="No query is of class 2"):
        undertow.influence_step(*given[:3], queries, settings("outlier"))
    with pytest.raises(DataError, match="0 of 24 queries are of class 2"):
        undertow.influence_step(*given[:3], queries, settings("repsim"))
    with pytest.raises(ConfigError, match="The baseline outlier looks at dense gradients, which take"):
        undertow.influence_step(*given, settings("outlier", memory=1e-6))
