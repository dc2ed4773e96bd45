"""Keeping scores or group means instead of the tensor: the same as reducing the tensor afterwards."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from undertow.influence.compute import compute_influence, covers
from undertow.influence.scores import ScoreWriter
from undertow.influence.store import InfluenceWriter, influence_dataset, module_keys, open_influence

from .stores import KEYS, QUERY_ROWS, SAMPLE_ROWS, both_stores

ESTIMATORS = ("tracin", "cosine", "tracin-we")
COVERED = np.array([[covers(e, key) for key in KEYS] for e in ESTIMATORS])
GROUPS = {"embedding": [0], "trained": [1, 3], "everything": [0, 1, 2, 3], "late": [2]}
CHOSEN = np.array([True, False, True])
VARIABLES = xr.Dataset({"query_correct": ("query", CHOSEN), "sample_loss": ("sample", np.linspace(0, 1, 5))})


def summed(block: np.ndarray, queries: slice) -> np.ndarray:
    """Sum over the queries that count: what a reduction gets tells it which they are."""
    return block[CHOSEN[queries]].sum(axis=0, dtype=np.float64)


def votes(block: np.ndarray, queries: slice) -> np.ndarray:
    """Something that is not linear in the influence."""
    below = (block[:, None, :] < block[:, :, None]).sum(axis=2)
    return -np.maximum(2 - below, 0).sum(axis=0, dtype=np.float64)


def frame() -> xr.Dataset:
    return influence_dataset(ESTIMATORS, KEYS, QUERY_ROWS, SAMPLE_ROWS, COVERED)


def kept(path: Path | None, reduce=summed, groups=None, *, block: int = 10**6, seed: int = 0) -> xr.Dataset:
    writer = ScoreWriter(frame(), path, reduce, groups)
    compute_influence(*both_stores(seed), ESTIMATORS, writer, block=block)
    assert writer.written == [0, 1, 2, 3]
    return writer.finish(VARIABLES)


def tensor(seed: int = 0) -> np.ndarray:
    writer = InfluenceWriter(frame())
    compute_influence(*both_stores(seed), ESTIMATORS, writer)
    return writer.finish(VARIABLES)["influence"].values


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "influence.zarr"


@pytest.mark.parametrize("block", [10, 1000])
@pytest.mark.parametrize("reduce", [summed, votes])
def test_scores_are_the_reduced_tensor(path, reduce, block: int):
    found = kept(path, reduce, block=block)
    assert found["score"].dims == ("estimator", "module", "sample")
    assert found["score"].dtype == np.float64
    assert "influence" not in found
    assert "group_influence" not in found
    whole = tensor()
    for e, name in enumerate(ESTIMATORS):
        for m, key in enumerate(KEYS):
            score = found["score"].sel(estimator=name, module=key.name).values
            if COVERED[e, m]:
                np.testing.assert_allclose(score, reduce(whole[e, m], slice(0, 3)), rtol=0, atol=1e-5)
            else:
                assert np.isnan(score).all()


@pytest.mark.parametrize("block", [1, 1000])
def test_groups_are_the_mean_over_their_modules(path, block: int):
    found = kept(path, groups=GROUPS, block=block)
    influence = found["group_influence"]
    assert influence.dims == ("estimator", "group", "query", "sample")
    assert influence.dtype == np.float32
    assert influence["group"].values.tolist() == list(GROUPS)
    whole = tensor()
    for e, name in enumerate(ESTIMATORS):
        for group, members in GROUPS.items():
            values = influence.sel(estimator=name, group=group).values
            inside = [m for m in members if COVERED[e, m]]
            if inside:
                np.testing.assert_allclose(values, whole[e, inside].mean(axis=0), rtol=0, atol=1e-5)
            else:
                assert np.isnan(values).all()
    np.testing.assert_array_equal(found["score"].values, kept(None, block=block)["score"].values)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_disk_holds_the_same_as_memory(tmp_path, groups):
    disk = kept(tmp_path / "influence.zarr", groups=groups, block=10)
    xr.testing.assert_identical(disk.load(), kept(None, groups=groups, block=10))


def test_a_score_of_zero_is_no_gap(path):
    found = kept(path, lambda block, queries: np.zeros(block.shape[1]))
    assert (found["score"].values[COVERED] == 0).all()


def test_coordinates_and_variables_come_along(path):
    found = kept(path)
    assert module_keys(found) == KEYS
    assert found["query"].values.tolist() == QUERY_ROWS.tolist()
    assert found["sample_loss"].sel(sample=55).item() == pytest.approx(0.75)
    assert found["covered"].values.tolist() == COVERED.tolist()
    assert found.attrs["sign"].startswith("positive = helpful")
    assert "whole" not in found


def test_it_can_be_opened_again(tmp_path):
    kept(tmp_path / "influence.zarr", groups=GROUPS)
    xr.testing.assert_identical(open_influence(tmp_path / "influence.zarr").load(), kept(None, groups=GROUPS))


class Killed(Exception):
    pass


def interrupted(path: Path, groups=None) -> None:
    """Gradients of another seed, and an end within the third module, after some of its queries."""
    writer = ScoreWriter(frame(), path, summed, groups, resume=True)
    write, seen = writer.write, []

    def failing(estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        write(estimator, module, queries, block)
        seen.append(module)
        if seen.count(2) == 2:
            raise Killed

    writer.write = failing
    with pytest.raises(Killed):
        compute_influence(*both_stores(1), ESTIMATORS, writer, block=5)


def test_going_on_after_an_interruption(tmp_path):
    path = tmp_path / "influence.zarr"
    interrupted(path)
    writer = ScoreWriter(frame(), path, summed, resume=True)
    assert writer.written == [0, 1]
    compute_influence(*both_stores(), ESTIMATORS, writer, modules=[2, 3])
    found = writer.finish(VARIABLES)["score"].values
    np.testing.assert_allclose(found[:, :2], kept(None, seed=1)["score"].values[:, :2], atol=1e-5)
    np.testing.assert_array_equal(found[:, 2:], kept(None)["score"].values[:, 2:])


def test_groups_start_again_after_an_interruption(tmp_path):
    # Their sums hold part of a module that was not completed.
    path = tmp_path / "influence.zarr"
    interrupted(path, GROUPS)
    writer = ScoreWriter(frame(), path, summed, GROUPS, resume=True)
    assert writer.written == []
    compute_influence(*both_stores(), ESTIMATORS, writer)
    xr.testing.assert_identical(writer.finish(VARIABLES).load(), kept(None, groups=GROUPS))


def test_several_writers_fill_one_store(tmp_path):
    path = tmp_path / "influence.zarr"
    writers = [ScoreWriter(frame(), path, summed, resume=True) for _ in range(2)]
    stores = both_stores()
    for rank in (1, 0):
        compute_influence(*stores, ESTIMATORS, writers[rank], modules=range(rank, 4, 2))
    assert writers[0].written == [0, 1, 2, 3]
    xr.testing.assert_identical(writers[0].finish(VARIABLES).load(), kept(None))


def test_a_finished_store_can_be_gone_on_with(tmp_path):
    before = kept(tmp_path / "influence.zarr").load()
    again = ScoreWriter(frame(), tmp_path / "influence.zarr", summed, resume=True)
    assert again.written == [0, 1, 2, 3]
    xr.testing.assert_identical(again.finish(VARIABLES).load(), before)


def test_writing_again_replaces(tmp_path):
    kept(tmp_path / "influence.zarr", seed=1)
    xr.testing.assert_identical(kept(tmp_path / "influence.zarr").load(), kept(None))
