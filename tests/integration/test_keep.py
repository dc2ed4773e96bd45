"""--keep scores and groups: the same harm as from the whole tensor, in less space."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import undertow
from undertow.influence.compute import compute_influence
from undertow.influence.store import module_keys
from undertow.models.groups import available_groups
from undertow.pipeline import influence as stage
from undertow.pipeline.gradients import Places

from . import tiny
from .conftest import run
from .test_library import classifier, with_adapter

ESTIMATORS = ("cosine", "datainf", "tracin-we")  # the last one is defined on the word embeddings alone
AGGREGATIONS = [("mean", False), ("rank", False), ("vote", False), ("vote", True), ("mean", True), ("rank", True)]


@pytest.fixture(scope="module")
def given():
    """A model with an adapter that gets some queries right and some wrong, with its data."""
    torch.manual_seed(0)
    train = undertow.load_samples(tiny.rows(60, seed=1))
    queries = undertow.load_samples(tiny.rows(24, seed=2), classes=train.classes, role="validation")
    return with_adapter(classifier()), tiny.tokenizer(), train, queries


@pytest.fixture(scope="module")
def made():
    """Whole tensors, kept for all tests."""
    return {}


@pytest.fixture(params=["at once", "by chunks"])
def whole(request, given, made, monkeypatch):
    """The whole tensor, where the queries of a module come in one block, or seven at a time."""
    if request.param == "by chunks":
        monkeypatch.setattr(stage, "compute_influence", partial(compute_influence, block=7 * 60))
    if request.param not in made:
        made[request.param] = undertow.influence_step(*given, settings())
    return made[request.param]


def settings(**more):
    return undertow.AuditSettings(estimators=ESTIMATORS, max_length=64, **more)


@pytest.mark.parametrize(("how", "correct"), AGGREGATIONS)
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_harm_is_that_of_the_whole_tensor(how, correct, place, given, whole, tmp_path):
    right = whole["query_correct"].values
    assert 0 < right.sum() < len(right)
    asked = {"aggregate": how, "correct_only": correct}
    expected = undertow.harm_table(whole, given[2], settings(**asked))
    places = Places(tensor=tmp_path / "influence.zarr") if place == "disk" else None
    kept = undertow.influence_step(*given, settings(keep="scores", **asked), places=places)
    assert "influence" not in kept
    assert kept["score"].dims == ("estimator", "module", "sample")
    defined = kept["covered"].values
    assert np.isfinite(kept["score"].values[defined]).all()
    assert np.isnan(kept["score"].values[~defined]).all()
    found = undertow.harm_table(kept, given[2], settings(keep="scores", **asked))
    # Sums of ranks and votes are whole numbers; a mean over chunks adds up in another order.
    pd.testing.assert_frame_equal(found, expected, check_exact=how != "mean", rtol=1e-9)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_group_means_are_those_of_the_tensor(place, given, whole, tmp_path):
    places = Places(tensor=tmp_path / "influence.zarr") if place == "disk" else None
    kept = undertow.influence_step(*given, settings(keep="groups"), places=places)
    assert "influence" not in kept
    groups = available_groups(module_keys(whole))
    assert kept["group"].values.tolist() == list(groups) == ["embedding", "att1", "att3", "head", "all"]
    assert np.array_equal(kept["score"].values, rank_scores(whole), equal_nan=True)
    for e, name in enumerate(ESTIMATORS):
        for g, members in groups.items():
            inside = [m for m in members if whole["covered"].values[e, m]]
            found = kept["group_influence"].sel(estimator=name, group=g).values
            if not inside:
                assert np.isnan(found).all()
                continue
            mean = whole["influence"].values[e, inside].astype(np.float64).mean(0)
            assert np.allclose(found, mean, rtol=1e-5, atol=1e-6 * np.abs(mean).max())


def rank_scores(whole):
    """Sum over queries of how many samples are below, straight from the definition."""
    values = whole["influence"].values
    below = (values[..., None, :] < values[..., None]).sum(-1).sum(2).astype(float)
    below[~whole["covered"].values] = np.nan
    return below


def test_a_store_of_something_else_is_not_gone_on_with(given, whole, tmp_path):
    """The same place for another model, other data or another aggregation: nothing of the first is left."""
    places = Places(tensor=tmp_path / "influence.zarr")
    undertow.influence_step(*given, settings(keep="scores"), places=places)
    voted = undertow.influence_step(*given, settings(keep="scores", aggregate="vote"), places=places)
    assert (voted["score"].sel(estimator="cosine").values <= 0).all()
    other = (with_adapter(classifier(("blame", "praise", "shrug"))), *given[1:])
    with torch.no_grad():
        other[0].get_submodule("base_model.model.classifier.modules_to_save.default").weight.mul_(-1)
    found = undertow.influence_step(*other, settings(), places=places)
    fresh = undertow.influence_step(*other, settings())
    assert np.array_equal(found["influence"].values, fresh["influence"].values, equal_nan=True)
    assert not np.array_equal(found["influence"].values, whole["influence"].values, equal_nan=True)
    again = undertow.influence_step(*given, settings(), places=places)
    assert np.array_equal(again["influence"].values, whole["influence"].values, equal_nan=True)


@pytest.mark.parametrize("keep", ["scores", "groups"])
def test_the_command_keeps_what_it_is_told(keep, full, tmp_path):
    made = run(tmp_path / "run", *full.arguments, "--keep", keep)
    with xr.open_zarr(made.folder / "influence.zarr", chunks=None) as dataset:
        assert "influence" not in dataset
        assert ("group_influence" in dataset) == (keep == "groups")
        assert dataset["score"].shape == (3, 10, 60)
    tables = [pd.read_parquet(f / "harm.parquet") for f in (made.folder, full.folder)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    results = [json.loads((f / "run.json").read_text())["results"] for f in (made.folder, full.folder)]
    assert results[0]["detections"] == results[1]["detections"]
