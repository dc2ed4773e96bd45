"""The influence tensor: an xarray dataset, in memory or on a zarr store."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from undertow.models.keys import ModuleKey

# Zarr format 2: fixed-length text coordinates are part of its specification, they are not yet in format 3.
_FORMAT = 2


def influence_dataset(
    estimators: Sequence[str],
    keys: Sequence[ModuleKey],
    query_rows: np.ndarray,
    sample_rows: np.ndarray,
) -> xr.Dataset:
    """Coordinates of an influence tensor without its values.

    Dimensions are estimator, module, query and sample. ``module`` carries layer (-1 outside the layers),
    projection, side and kind; query and sample are the row ids in their sources.
    """
    text = {
        name: ("module", np.array([getattr(k, name) for k in keys], dtype=str))
        for name in ("projection", "side", "kind")
    }
    layers = np.array([-1 if k.layer is None else k.layer for k in keys], dtype=np.int64)
    return xr.Dataset(
        coords={
            "estimator": np.array(estimators, dtype=str),
            "module": np.array([k.name for k in keys], dtype=str),
            "query": query_rows,
            "sample": sample_rows,
            "layer": ("module", layers),
            "size": ("module", np.array([k.size for k in keys], dtype=np.int64)),
            **text,
        },
        attrs={"sign": "positive = helpful: a step on the sample lowers the query's loss"},
    )


class InfluenceWriter:
    """Receives influence blocks [query, sample] and leaves them as one dataset.

    With a path, blocks go to a zarr store as they come, so memory holds one block at a time.
    """

    def __init__(self, frame: xr.Dataset, path: Path | None = None) -> None:
        self._frame = frame
        self._path = path
        shape = tuple(frame.sizes[d] for d in ("estimator", "module", "query", "sample"))
        if path is None:
            self._values: np.ndarray | zarr.Array = np.zeros(shape, dtype=np.float32)
            return
        frame.to_zarr(path, mode="w", zarr_format=_FORMAT, consolidated=False)
        self._values = zarr.create_array(
            zarr.storage.LocalStore(path),
            name="influence",
            shape=shape,
            chunks=(1, 1, shape[2], shape[3]),
            dtype="float32",
            zarr_format=_FORMAT,
            compressors=None,  # float noise does not compress
            attributes={"_ARRAY_DIMENSIONS": ["estimator", "module", "query", "sample"]},
        )

    def write(self, estimator: int, module: int, block: np.ndarray) -> None:
        """Store the influence [query, sample] of one estimator on one module."""
        self._values[estimator, module] = block

    def finish(self, variables: xr.Dataset) -> xr.Dataset:
        """Add per-query and per-sample variables and return the whole dataset."""
        if self._path is None:
            values = ("estimator", "module", "query", "sample"), self._values
            return self._frame.assign(influence=values).assign(variables.data_vars)
        # With the frame's coordinates and attributes once more: appending replaces what the group says of them.
        whole = variables.assign_coords(self._frame.coords).assign_attrs(self._frame.attrs)
        whole.to_zarr(self._path, mode="a", zarr_format=_FORMAT, consolidated=False)
        zarr.consolidate_metadata(str(self._path), zarr_format=_FORMAT)
        return open_influence(self._path)


def open_influence(path: Path) -> xr.Dataset:
    """A stored influence tensor; values are read when they are used."""
    dataset: xr.Dataset = xr.open_zarr(path, chunks=None)
    return dataset


def module_keys(influence: xr.Dataset) -> tuple[ModuleKey, ...]:
    """The module keys of an influence tensor, from its coordinates."""
    columns = [influence[c].values.tolist() for c in ("module", "layer", "projection", "side", "kind", "size")]
    return tuple(
        ModuleKey(name, None if layer < 0 else layer, projection, side, kind, size)
        for name, layer, projection, side, kind, size in zip(*columns, strict=True)
    )
