"""The influence tensor in memory and on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from undertow.errors import ConfigError, TrainingError
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.names import check_estimators
from undertow.influence.store import InfluenceWriter, influence_dataset, module_keys, open_influence
from undertow.models.keys import ModuleKey

ESTIMATORS = ("tracin", "datainf")
KEYS = (
    ModuleKey("encoder.layer.0.query.lora_A", 0, "query", "lora_A", "attention", 6),
    ModuleKey("encoder.layer.11.value.lora_B", 11, "value", "lora_B", "attention", 4),
    ModuleKey("classifier", None, "classifier", "weight", "head", 5),
)
QUERY_ROWS, SAMPLE_ROWS = np.array([7, 3]), np.array([10, 0, 2, 55, 4])
DIMENSIONS = ("estimator", "module", "query", "sample")


def gradient_stores(seed: int = 0) -> tuple[GradientStore, GradientStore]:
    torch.manual_seed(seed)
    stores = GradientStore(KEYS, 2), GradientStore(KEYS, 5)
    for store in stores:
        for module, key in enumerate(KEYS):
            store.add(module, torch.arange(store.samples), torch.randn(store.samples, key.size))
    return stores


def written(path: Path | None, stores: tuple[GradientStore, GradientStore] | None = None) -> xr.Dataset:
    writer = InfluenceWriter(influence_dataset(ESTIMATORS, KEYS, QUERY_ROWS, SAMPLE_ROWS), path)
    compute_influence(*(stores or gradient_stores()), ESTIMATORS, writer)
    return writer.finish(
        xr.Dataset(
            {
                "query_correct": ("query", np.array([True, False])),
                "sample_loss": ("sample", np.linspace(0, 1, 5)),
                "sample_probability": (("sample", "class"), np.full((5, 2), 0.5)),
            }
        )
    )


@pytest.fixture(params=["memory", "disk"])
def tensor(request, tmp_path) -> xr.Dataset:
    return written(None if request.param == "memory" else tmp_path / "influence.zarr")


def test_dimensions_and_coordinates(tensor):
    influence = tensor["influence"]
    assert influence.dims == DIMENSIONS
    assert influence.shape == (2, 3, 2, 5)
    assert influence.dtype == np.float32
    assert influence["estimator"].values.tolist() == list(ESTIMATORS)
    assert influence["module"].values.tolist() == [k.name for k in KEYS]
    assert influence["query"].values.tolist() == [7, 3]
    assert influence["sample"].values.tolist() == [10, 0, 2, 55, 4]
    assert influence["layer"].values.tolist() == [0, 11, -1]
    assert influence["projection"].values.tolist() == ["query", "value", "classifier"]
    assert influence["side"].values.tolist() == ["lora_A", "lora_B", "weight"]
    assert influence["kind"].values.tolist() == ["attention", "attention", "head"]
    assert influence["size"].values.tolist() == [6, 4, 5]
    assert tensor.attrs["sign"].startswith("positive = helpful")


def test_values_are_those_of_the_gradients(tensor):
    queries, samples = gradient_stores()
    for m, key in enumerate(KEYS):
        found = tensor["influence"].sel(estimator="tracin", module=key.name)
        for q, query in enumerate(QUERY_ROWS):
            for s, sample in enumerate(SAMPLE_ROWS):
                expected = sum(a * b for a, b in zip(queries[m][q].tolist(), samples[m][s].tolist(), strict=True))
                assert found.sel(query=query, sample=sample).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_variables_come_along(tensor):
    assert tensor["query_correct"].values.tolist() == [True, False]
    assert tensor["query_correct"].dtype == bool
    np.testing.assert_allclose(tensor["sample_loss"].sel(sample=55).item(), 0.75)
    assert tensor["sample_probability"].dims == ("sample", "class")


def test_selecting_and_grouping_work(tensor):
    assert tensor["influence"].sel(estimator="tracin").isel(module=tensor["kind"].values == "head").shape == (1, 2, 5)
    by_layer = tensor["influence"].sel(estimator="datainf").groupby("layer").mean()
    assert by_layer["layer"].values.tolist() == [-1, 0, 11]


def test_module_keys_come_back(tensor):
    assert module_keys(tensor) == KEYS


def test_disk_holds_the_same_as_memory(tmp_path):
    disk = written(tmp_path / "influence.zarr")
    memory = written(None)
    xr.testing.assert_identical(disk.load(), memory)


def test_xarray_alone_can_read_it(tmp_path):
    written(tmp_path / "influence.zarr")
    for reader in (xr.open_zarr, open_influence):
        with reader(tmp_path / "influence.zarr") as found:
            assert found["influence"].dims == DIMENSIONS
            assert {"layer", "projection", "side", "kind", "size"} <= set(found.coords)
            np.testing.assert_array_equal(found["influence"].values, written(None)["influence"].values)


def test_writing_again_replaces(tmp_path):
    written(tmp_path / "influence.zarr", gradient_stores(seed=1))
    found = written(tmp_path / "influence.zarr")
    np.testing.assert_array_equal(found["influence"].values, written(None)["influence"].values)


def test_progress_counts_modules():
    writer, steps = InfluenceWriter(influence_dataset(ESTIMATORS, KEYS, QUERY_ROWS, SAMPLE_ROWS)), []
    compute_influence(*gradient_stores(), ESTIMATORS, writer, advance=steps.append)
    assert steps == [1, 1, 1]


def test_gradients_of_higher_precision_are_taken():
    stores = [GradientStore(KEYS, n, dtype=torch.float64) for n in (2, 5)]
    for wide, narrow in zip(stores, gradient_stores(), strict=True):
        for module in range(len(KEYS)):
            wide.add(module, torch.arange(wide.samples), narrow[module])
    xr.testing.assert_identical(written(None, (stores[0], stores[1])), written(None))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(value: float):
    queries, samples = gradient_stores()
    samples[1][3, 2] = value
    with pytest.raises(TrainingError, match=r"^tracin on encoder\.layer\.11\.value\.lora_B yielded NaN or infinity"):
        written(None, (queries, samples))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tracin", "tracing"], r"--estimator got 'tracing'\. Known estimators are: tracin, cosine, datainf"),
        ([], r"--estimator got nothing"),
        (["cosine", "cosine"], r"--estimator names one twice: cosine, cosine"),
    ],
)
def test_names_of_estimators(names: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        check_estimators(names)
    check_estimators(["datainf", "tracin"])
