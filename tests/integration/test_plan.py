"""``undertow plan`` against what an audit then really takes; ``--fast`` and precision."""

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from undertow.data import encode, load_samples
from undertow.models.loading import load_model
from undertow.models.sources import resolve_model
from undertow.pipeline import precision
from undertow.pipeline.gradients import Places
from undertow.pipeline.influence import influence_step
from undertow.pipeline.plan import Plan, plan
from undertow.pipeline.settings import AuditSettings

from . import tiny
from .command import undertow
from .conftest import QUICK, Place


@pytest.fixture(scope="module")
def planned(place: Place) -> Plan:
    return plan(
        str(place("classifier")),
        str(place("train.csv")),
        str(place("validation.jsonl")),
        settings=AuditSettings(estimators=("tracin", "cosine")),
        probe=0.2,
    )


def test_says_what_the_audit_takes(planned: Plan, place: Place, tmp_path: Path):
    settings = AuditSettings(estimators=("tracin", "cosine"))
    source = resolve_model(str(place("classifier")))
    loaded = load_model(source, ("shrug", "praise", "blame"))
    train = load_samples(place("train.csv"), classes=("blame", "praise", "shrug"))
    queries = load_samples(place("validation.jsonl"), classes=train.classes).select(np.arange(planned.queries))
    places = Places(tensor=tmp_path / "tensor.zarr", gradients=tmp_path / "gradients")
    influence = influence_step(loaded.model, loaded.tokenizer, train, queries, settings, places=places)
    assert planned.samples == influence.sizes["sample"]
    assert planned.parameters == int(influence["size"].sum())
    assert sum(m.modules for m in planned.modules) == influence.sizes["module"]
    held = sum(f.stat().st_size for f in (tmp_path / "gradients" / "samples").glob("0*"))
    lengths = encode(train, loaded.tokenizer, 128).lengths
    # The plan has its own queries, of other lengths; the samples' share of its bytes is known.
    assert held < planned.gradient_bytes < held * (1 + 3 * planned.queries / len(lengths))
    stored = 4 * influence["influence"].size
    assert planned.tensor_bytes == stored


def test_times_come_from_the_probe(planned: Plan):
    assert planned.rate > 1
    assert planned.gradient_seconds == pytest.approx((planned.samples + planned.queries) / planned.rate, rel=0.5)
    assert planned.training_seconds == 0  # the classifier is trained
    assert planned.seconds >= planned.gradient_seconds


def test_training_is_counted_where_there_is_one(place: Place):
    files = (str(place("train.csv")), str(place("validation.jsonl")))
    once, twice = (
        plan(str(place("bert")), *files, settings=AuditSettings(epochs=e, plant=0.2), probe=0.1) for e in (1, 2)
    )
    assert twice.training_seconds * twice.rate == pytest.approx(2 * once.training_seconds * once.rate)
    assert {m.side for m in once.modules} == {"lora_A", "lora_B", "weight"}


def test_canaries_are_counted_where_there_are_any(place: Place, tmp_path: Path):
    tiny.write(tiny.rows(500, seed=6), tmp_path / "train.csv")
    files = (str(tmp_path / "train.csv"), str(place("validation.jsonl")))
    calibrated, plain = (
        plan(str(place("bert")), *files, settings=AuditSettings(calibrate=c), probe=0.1) for c in (True, False)
    )
    assert (calibrated.samples, calibrated.canaries) == (500, 50)
    assert (plain.samples, plain.canaries, plain.calibration_seconds) == (500, 0, 0)
    assert calibrated.tensor_bytes * 500 == plain.tensor_bytes * 550
    assert calibrated.calibration_seconds > 0
    few = plan(str(place("bert")), *map(str, (place("train.csv"), files[1])), settings=AuditSettings(), probe=0.1)
    assert any(note.startswith("Not calibrated: 60 rows") for note in few.notes)


def test_command_prints_and_writes_nothing(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    monkeypatch.setattr("undertow.pipeline.plan.PROBE", 0.1)
    outcome = undertow("plan", "--model", place("bert"), *files, *QUICK, "--project", 2, "--keep", "scores")
    assert outcome.code == 0, outcome.err
    for said in ("60 training rows", "lora_A", "shared tokens", "Gradient cache", "(--keep scores)", "In all", "Next:"):
        assert said in outcome.said
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_that_of_an_audit(place: Place):
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    outcome = undertow("plan", "--model", place("bert"), *files, "--estimator", "magic")
    assert outcome.code == 2
    assert "--estimator got 'magic'. Known estimators are: tracin," in outcome.complaint


def test_fast_decides_alike_and_tracks_less(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_bfloat16_pays", lambda device: False)  # whatever machine this is
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    for name, more in {"whole": (), "fast": ("--fast",)}.items():
        asked = ("--model", place("bert"), *files, *QUICK, "--layers", "1,head", *more)
        outcome = undertow("audit", *asked, "--out", tmp_path / name)
        assert outcome.code == 0, outcome.err
    whole, fast = (pd.read_parquet(tmp_path / name / "harm.parquet") for name in ("whole", "fast"))
    tensors = [xr.open_zarr(tmp_path / name / "influence.zarr") for name in ("whole", "fast")]
    np.testing.assert_allclose(fast["harm"], whole["harm"], rtol=1e-6)
    assert set(tensors[1]["layer"].values.tolist()) == {1, -1}
    assert tensors[1].sizes["module"] < tensors[0].sizes["module"]
    assert "embedding" not in tensors[1]["kind"].values


def test_bfloat16_is_taken_where_it_pays():
    settings = AuditSettings(fast=True)
    for pays, chosen in ((True, torch.bfloat16), (False, None)):
        with mock.patch.object(precision, "_bfloat16_pays", return_value=pays):
            assert precision.compute_dtype(settings, "cpu") is chosen
            assert precision.compute_dtype(AuditSettings(), "cpu") is None
            assert precision.compute_dtype(AuditSettings(compute_dtype="bfloat16"), "cpu") is torch.bfloat16
    assert precision._bfloat16_pays("cpu") in (True, False)


def test_bfloat16_computes_nearly_the_same(place: Place, tmp_path: Path):
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    for dtype in ("float32", "bfloat16"):
        asked = ("--model", place("classifier"), *files, "--compute-dtype", dtype)
        assert undertow("audit", *asked, "--out", tmp_path / dtype).code == 0
    exact, near = (pd.read_parquet(tmp_path / name / "harm.parquet")["harm"] for name in ("float32", "bfloat16"))
    assert not np.array_equal(exact, near)
    assert exact.corr(near, method="spearman") > 0.95
