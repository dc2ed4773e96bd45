"""The influence tensor: an xarray dataset, in memory or on a zarr store."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr
import zarr

from undertow.errors import ConfigError
from undertow.models.groups import PROFILE_GROUPS, available_groups, select_modules
from undertow.models.keys import ModuleKey

# Zarr format 2: fixed-length text coordinates are part of its specification, they are not yet in format 3.
FORMAT = 2
Name = TypeVar("Name")
# What a sample is, along the coordinate ``control``: the user's row, a canary, or an anchor. In this order.
ROW, CANARY, ANCHOR = 0, 1, 2
DIMENSIONS = ("estimator", "module", "query", "sample")


def influence_dataset(
    estimators: Sequence[str],
    keys: Sequence[ModuleKey],
    query_rows: np.ndarray,
    sample_rows: np.ndarray,
    covered: np.ndarray | None = None,
    control: np.ndarray | None = None,
) -> xr.Dataset:
    """Coordinates of an influence tensor without its values.

    Dimensions are estimator, module, query and sample. ``module`` carries layer (-1 outside the layers),
    projection, side, kind, size and trained; query and sample are the row ids in their sources.
    ``covered[estimator, module]`` says where an estimator is defined; elsewhere the tensor holds NaN.
    ``control[sample]`` says which samples are control rows (`CANARY`, `ANCHOR`); none by default.
    """
    if control is None:
        control = np.zeros(len(sample_rows), dtype=np.int8)
    text = {
        name: ("module", np.array([getattr(k, name) for k in keys], dtype=str))
        for name in ("projection", "side", "kind")
    }
    layers = np.array([-1 if k.layer is None else k.layer for k in keys], dtype=np.int64)
    if covered is None:
        covered = np.ones((len(estimators), len(keys)), dtype=bool)
    return xr.Dataset(
        {"covered": (("estimator", "module"), covered)},
        coords={
            "estimator": np.array(estimators, dtype=str),
            "module": np.array([k.name for k in keys], dtype=str),
            "query": query_rows,
            "sample": sample_rows,
            "control": ("sample", control.astype(np.int8)),
            "layer": ("module", layers),
            "size": ("module", np.array([k.size for k in keys], dtype=np.int64)),
            "trained": ("module", np.array([k.trained for k in keys], dtype=bool)),
            **text,
        },
        attrs={"sign": "positive = helpful: a step on the sample lowers the query's loss"},
    )


class InfluenceWriter:
    """Receives influence blocks [query, sample] and leaves them as one dataset.

    With a path, blocks go to a zarr store as they come, so memory holds one block at a time; several writers
    may fill one store, each its own modules. ``resume`` goes on with a store that an interruption left;
    `written` says which modules are whole.
    """

    def __init__(
        self, frame: xr.Dataset, path: Path | None = None, *, query_chunk: int | None = None, resume: bool = False
    ) -> None:
        self._frame = frame
        self._path = path
        shape = tuple(frame.sizes[d] for d in DIMENSIONS)
        if path is None:
            # Not filled: touching memory twice takes as long as many an estimator.
            self._values: np.ndarray | zarr.Array = np.empty(shape, dtype=np.float32)
            self._touched = np.zeros(shape[:3], dtype=bool)
            self._whole: np.ndarray | zarr.Array = np.zeros(shape[1], dtype=bool)
            return
        if resume and (path / "whole" / ".zarray").is_file():
            group = zarr.open_group(str(path), mode="r+", zarr_format=FORMAT)
            self._values, self._whole = _array(group, "influence"), _array(group, "whole")
            return
        shutil.rmtree(path, ignore_errors=True)
        frame.to_zarr(path, mode="w", zarr_format=FORMAT, consolidated=False)
        chunks = (1, 1, min(query_chunk or shape[2], shape[2]), shape[3])
        self._values = open_array(path, "influence", DIMENSIONS, shape, chunks, "float32")
        # Created last: where it stands, the store is complete but for its values.
        self._whole = open_array(path, "whole", ("module",), shape[1:2], (1,), "bool")

    @property
    def written(self) -> list[int]:
        """Positions of the modules that are whole."""
        return np.flatnonzero(np.asarray(self._whole[:])).tolist()

    def write(self, estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        """Store the influence [query, sample] of some queries, for one estimator on one module."""
        self._values[estimator, module, queries] = block
        if self._path is None:
            self._touched[estimator, module, queries] = True

    def complete(self, module: int) -> None:
        """Take note that all of a module was written."""
        self._whole[module] = True

    def finish(self, variables: xr.Dataset) -> xr.Dataset:
        """Add per-query and per-sample variables and return the whole dataset."""
        if self._path is None:
            self._values[~self._touched] = np.nan
            return self._frame.assign(influence=(DIMENSIONS, self._values)).assign(variables.data_vars)
        # With the frame's coordinates and attributes once more: appending replaces what the group says of them.
        whole = variables.assign_coords(self._frame.coords).assign_attrs(self._frame.attrs)
        whole.to_zarr(self._path, mode="a", zarr_format=FORMAT, consolidated=False)
        zarr.consolidate_metadata(str(self._path), zarr_format=FORMAT)
        return open_influence(self._path)


def open_array(
    path: Path,
    name: str,
    dimensions: Sequence[str],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
) -> zarr.Array:
    """A new array of an xarray dataset on disk, uncompressed: float noise does not compress.

    Where nothing is written, numbers are NaN and truth values False.
    """
    return zarr.create_array(
        zarr.storage.LocalStore(path),
        name=name,
        shape=shape,
        chunks=tuple(max(c, 1) for c in chunks),
        dtype=dtype,
        # xarray reads the fill value of a float array as missing: were it 0, an influence of 0 would be lost.
        fill_value=float("nan") if dtype.startswith("float") else 0,
        zarr_format=FORMAT,
        compressors=None,
        attributes={"_ARRAY_DIMENSIONS": list(dimensions)},
    )


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def open_influence(path: Path) -> xr.Dataset:
    """A stored influence tensor; values are read when they are used."""
    dataset: xr.Dataset = xr.open_zarr(path, chunks=None)
    return dataset.drop_vars("whole", errors="ignore")


def row_count(influence: xr.Dataset) -> int:
    """Number of the user's rows, which stand before all control rows."""
    if "control" not in influence.coords:  # of an older version, whose canaries have row ids below 0
        return int((influence["sample"].values >= 0).sum())
    return int((influence["control"].values == ROW).sum())


def user_rows(influence: xr.Dataset) -> xr.Dataset:
    """An influence tensor without the control rows, which stand behind the user's rows."""
    n = row_count(influence)
    if n == influence.sizes["sample"]:
        return influence
    found = influence.isel(sample=slice(0, n))
    if "word" in found.dims:
        found = found.isel(word=np.flatnonzero(found["word_sample"].values < n))
    return found


def module_keys(influence: xr.Dataset) -> tuple[ModuleKey, ...]:
    """The module keys of an influence tensor, from its coordinates."""
    names = ("module", "layer", "projection", "side", "kind", "size", "trained")
    columns = [influence[c].values.tolist() for c in names]
    return tuple(
        ModuleKey(name, None if layer < 0 else layer, projection, side, kind, size, trained)
        for name, layer, projection, side, kind, size, trained in zip(*columns, strict=True)
    )


def check_covered(influence: xr.Dataset, estimator: str, modules: Sequence[int]) -> None:
    """Refuse modules that an estimator is not defined on.

    Raises:
        ConfigError: names them, and the modules it is defined on.
    """
    covered = influence["covered"].sel(estimator=estimator).values
    names = influence["module"].values
    outside = [str(names[m]) for m in modules if not covered[m]]
    if outside:
        inside = [str(n) for n in names[covered]]
        shown = ", ".join(inside[:5]) + (", …" if len(inside) > 5 else "")
        raise ConfigError(
            f"{estimator} is not defined on {len(outside)} of the chosen modules ({', '.join(outside[:3])}"
            f"{', …' if len(outside) > 3 else ''}), only on: {shown or 'none of this model'}. Choose these with "
            "--layers."
        )


def covered_groups(groups: Mapping[Name, Sequence[int]], covered: np.ndarray) -> dict[Name, list[int]]:
    """Of each group the modules that an estimator is defined on; groups without one are left out."""
    held = {name: [m for m in positions if covered[m]] for name, positions in groups.items()}
    return {name: positions for name, positions in held.items() if positions}


def deciding_modules(keys: Sequence[ModuleKey], covered: np.ndarray, layers: str) -> list[int]:
    """Positions of the modules that decide: of ``all``, those that the estimator is defined on.

    An estimator of word embeddings alone decides by them. Any other choice of layers is taken at its word.
    """
    chosen = select_modules(keys, layers)
    inside = [m for m in chosen if covered[m]]
    if layers != "all":
        return chosen
    return inside or np.flatnonzero(covered).tolist()


def standard_groups(keys: Sequence[ModuleKey], covered: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The standard layer groups with the modules that an estimator is defined on, ``covered`` [module].

    Of groups with the same modules the last one stays, which is ``all`` where that is among them.
    """
    groups = available_groups(keys, PROFILE_GROUPS)
    held = {name: tuple(m for m in modules if covered[m]) for name, modules in groups.items()}
    held["all"] = tuple(deciding_modules(keys, covered, "all"))
    last = {modules: name for name, modules in held.items()}
    return {name: modules for name, modules in held.items() if modules and last[modules] == name}
