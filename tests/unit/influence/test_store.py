"""The influence tensor in memory and on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from undertow.errors import ConfigError
from undertow.influence.compute import compute_influence, covers
from undertow.influence.store import (
    InfluenceWriter,
    check_covered,
    influence_dataset,
    module_keys,
    open_influence,
)
from undertow.models.keys import ModuleKey

from .stores import KEYS, QUERY_ROWS, SAMPLE_ROWS, HeldStore, both_stores, dense

ESTIMATORS = ("tracin", "datainf", "tracin-we-k")
DIMENSIONS = ("estimator", "module", "query", "sample")
COVERED = np.array([[covers(e, key) for key in KEYS] for e in ESTIMATORS])
VARIABLES = xr.Dataset(
    {
        "query_correct": ("query", np.array([True, False, True])),
        "sample_loss": ("sample", np.linspace(0, 1, 5)),
        "sample_probability": (("sample", "class"), np.full((5, 2), 0.5)),
        "samples_truncated": 3,
    }
)


def frame() -> xr.Dataset:
    return influence_dataset(ESTIMATORS, KEYS, QUERY_ROWS, SAMPLE_ROWS, COVERED)


def written(path: Path | None, stores: tuple[HeldStore, HeldStore] | None = None, **options: object) -> xr.Dataset:
    writer = InfluenceWriter(frame(), path, **options)
    compute_influence(*(stores or both_stores()), ESTIMATORS, writer)
    return writer.finish(VARIABLES)


@pytest.fixture(params=["memory", "disk"])
def tensor(request, tmp_path) -> xr.Dataset:
    return written(None if request.param == "memory" else tmp_path / "influence.zarr")


def test_dimensions_and_coordinates(tensor):
    influence = tensor["influence"]
    assert influence.dims == DIMENSIONS
    assert influence.shape == (3, 4, 3, 5)
    assert influence.dtype == np.float32
    assert influence["estimator"].values.tolist() == list(ESTIMATORS)
    assert influence["module"].values.tolist() == [k.name for k in KEYS]
    assert influence["query"].values.tolist() == [7, 3, 8]
    assert influence["sample"].values.tolist() == [10, 0, 2, 55, 4]
    assert influence["layer"].values.tolist() == [-1, 0, 11, -1]
    assert influence["projection"].values.tolist() == ["word_embeddings", "query", "output", "classifier"]
    assert influence["side"].values.tolist() == ["weight", "lora_A", "weight", "weight"]
    assert influence["kind"].values.tolist() == ["embedding", "attention", "mlp", "head"]
    assert influence["size"].values.tolist() == [24, 6, 12, 5]
    assert influence["trained"].values.tolist() == [False, True, False, True]
    assert influence["trained"].dtype == bool
    assert tensor.attrs["sign"].startswith("positive = helpful")


def test_values_are_those_of_the_gradients(tensor):
    queries, samples = both_stores()
    for m, key in enumerate(KEYS):
        found = tensor["influence"].sel(estimator="tracin", module=key.name)
        v, g = dense(queries, m), dense(samples, m)
        for q, query in enumerate(QUERY_ROWS):
            for s, sample in enumerate(SAMPLE_ROWS):
                expected = sum(a * b for a, b in zip(v[q].tolist(), g[s].tolist(), strict=True))
                assert found.sel(query=query, sample=sample).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_what_is_not_covered_is_nan(tensor):
    assert tensor["covered"].dims == ("estimator", "module")
    assert tensor["covered"].values.tolist() == [[True] * 4, [True] * 4, [True, False, False, False]]
    missing = np.isnan(tensor["influence"].values)
    np.testing.assert_array_equal(missing, np.broadcast_to(~COVERED[:, :, None, None], missing.shape))


def test_all_is_covered_unless_told_otherwise():
    assert influence_dataset(ESTIMATORS, KEYS, QUERY_ROWS, SAMPLE_ROWS)["covered"].values.all()


def test_variables_come_along(tensor):
    assert tensor["query_correct"].values.tolist() == [True, False, True]
    assert tensor["query_correct"].dtype == bool
    np.testing.assert_allclose(tensor["sample_loss"].sel(sample=55).item(), 0.75)
    assert tensor["sample_probability"].dims == ("sample", "class")
    assert tensor["samples_truncated"].item() == 3
    assert "whole" not in tensor


def test_selecting_and_grouping_work(tensor):
    head = tensor["influence"].sel(estimator="tracin").isel(module=tensor["kind"].values == "head")
    assert head.shape == (1, 3, 5)
    by_layer = tensor["influence"].sel(estimator="datainf").groupby("layer").mean()
    assert by_layer["layer"].values.tolist() == [-1, 0, 11]


def test_an_influence_of_zero_is_no_gap(tmp_path):
    queries, samples = both_stores()
    queries[3].values.zero_()
    found = written(tmp_path / "influence.zarr", (queries, samples))["influence"].values
    assert (found[:2, 3] == 0).all()


def test_module_keys_come_back(tensor):
    assert module_keys(tensor) == KEYS


def test_disk_holds_the_same_as_memory(tmp_path):
    disk = written(tmp_path / "influence.zarr")
    memory = written(None)
    xr.testing.assert_identical(disk.load(), memory)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_of_queries_on_disk(tmp_path, chunk: int):
    found = written(tmp_path / "influence.zarr", query_chunk=chunk)
    array = zarr.open_group(str(tmp_path / "influence.zarr"), mode="r")["influence"]
    assert array.chunks == (1, 1, min(chunk, 3), 5)
    xr.testing.assert_identical(found.load(), written(None))


def test_xarray_alone_can_read_it(tmp_path):
    written(tmp_path / "influence.zarr")
    for reader in (xr.open_zarr, open_influence):
        with reader(tmp_path / "influence.zarr") as found:
            assert found["influence"].dims == DIMENSIONS
            assert {"layer", "projection", "side", "kind", "size", "trained"} <= set(found.coords)
            np.testing.assert_array_equal(found["influence"].values, written(None)["influence"].values)


def test_writing_again_replaces(tmp_path):
    written(tmp_path / "influence.zarr", both_stores(seed=1))
    found = written(tmp_path / "influence.zarr")
    np.testing.assert_array_equal(found["influence"].values, written(None)["influence"].values)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_modules_that_were_left_out_stay_nan(tmp_path, where: str):
    writer = InfluenceWriter(frame(), None if where == "memory" else tmp_path / "influence.zarr")
    compute_influence(*both_stores(), ESTIMATORS, writer, modules=[1])
    assert writer.written == [1]
    found = writer.finish(VARIABLES)["influence"].sel(estimator="tracin").values
    assert np.isnan(found).all(axis=(1, 2)).tolist() == [True, False, True, True]


class Killed(Exception):
    pass


class KilledIn:
    """Ends the process, as it were, when a module is about to be whole."""

    def __init__(self, writer: InfluenceWriter, module: int) -> None:
        self.writer, self.module, self.seen = writer, module, []

    def write(self, estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        self.seen.append(module)
        self.writer.write(estimator, module, queries, block)

    def complete(self, module: int) -> None:
        if module == self.module:
            raise Killed
        self.writer.complete(module)


def test_going_on_after_an_interruption(tmp_path):
    path = tmp_path / "influence.zarr"
    first = KilledIn(InfluenceWriter(frame(), path, resume=True), module=2)
    with pytest.raises(Killed):
        compute_influence(*both_stores(seed=1), ESTIMATORS, first)
    second = InfluenceWriter(frame(), path, resume=True)
    assert second.written == [0, 1]
    # The other gradients tell what was kept from what is computed now.
    compute_influence(*both_stores(), ESTIMATORS, second, modules=[2, 3])
    found = second.finish(VARIABLES)["influence"].values
    before, now = (written(None, both_stores(seed))["influence"].values for seed in (1, 0))
    np.testing.assert_array_equal(found[:, :2], before[:, :2])
    np.testing.assert_array_equal(found[:, 2:], now[:, 2:])


def test_a_finished_store_can_be_gone_on_with(tmp_path):
    before = written(tmp_path / "influence.zarr").load()
    again = InfluenceWriter(frame(), tmp_path / "influence.zarr", resume=True)
    assert again.written == [0, 1, 2, 3]
    xr.testing.assert_identical(again.finish(VARIABLES).load(), before)


def test_without_resume_nothing_is_kept(tmp_path):
    written(tmp_path / "influence.zarr")
    assert InfluenceWriter(frame(), tmp_path / "influence.zarr").written == []


def test_a_store_that_was_cut_short_while_it_was_made_is_made_again(tmp_path):
    path = tmp_path / "influence.zarr"
    written(path)
    (path / "whole" / ".zarray").unlink()
    assert InfluenceWriter(frame(), path, resume=True).written == []


def test_several_writers_fill_one_store(tmp_path):
    path = tmp_path / "influence.zarr"
    writers = [InfluenceWriter(frame(), path, query_chunk=2, resume=True) for _ in range(2)]
    stores = both_stores()
    for rank in (1, 0):
        compute_influence(*stores, ESTIMATORS, writers[rank], modules=range(rank, 4, 2), block=5)
    assert writers[0].written == writers[1].written == [0, 1, 2, 3]
    xr.testing.assert_allclose(writers[0].finish(VARIABLES).load(), written(None), rtol=1e-5, atol=1e-6)


def test_gradients_of_higher_precision_are_taken():
    found = written(None, both_stores(dtype=torch.float64))
    xr.testing.assert_allclose(found, written(None), rtol=1e-4, atol=1e-5)
    assert found["influence"].dtype == np.float32


def test_modules_that_an_estimator_is_not_defined_on_are_refused(tensor):
    check_covered(tensor, "tracin", range(4))
    check_covered(tensor, "tracin-we-k", [0])
    check_covered(tensor, "tracin-we-k", [])
    with pytest.raises(
        ConfigError,
        match=r"^tracin-we-k is not defined on 1 of the chosen modules \(classifier\), only on: "
        r"embeddings\.word_embeddings\. Choose these with --layers\.$",
    ):
        check_covered(tensor, "tracin-we-k", [0, 3])


def test_long_lists_of_modules_are_cut():
    keys = tuple(ModuleKey(f"m{i}", 0, "query", "lora_A", "attention", 2) for i in range(12))
    covered = np.array([[i < 6 for i in range(12)], [False] * 12])
    tensor = influence_dataset(("less", "tracin-we"), keys, QUERY_ROWS, SAMPLE_ROWS, covered)
    with pytest.raises(ConfigError, match=r"5 of the chosen modules \(m6, m7, m8, …\), only on: m0, .*, m4, …\."):
        check_covered(tensor, "less", range(5, 11))
    with pytest.raises(ConfigError, match=r"only on: none of this model\."):
        check_covered(tensor, "tracin-we", [0])
