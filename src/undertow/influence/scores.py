"""Keeping less than the influence tensor: scores of each module, or means of layer groups."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from undertow.influence.store import FORMAT, open_array, open_influence

# Reduces a block [query, sample], whose queries are these, to one score a sample; adds up over blocks of queries.
Reduce = Callable[[np.ndarray, slice], np.ndarray]

_PRECISION = {"score": "float64", "group_influence": "float32"}


class ScoreWriter:
    """Receives influence blocks and keeps what they add up to.

    ``score[estimator, module, sample]`` is the sum of ``reduce`` over the blocks of a module, so that memory does
    not grow with queries x modules; with ``groups``, also ``group_influence[estimator, group, query, sample]``,
    the mean over those modules of each group that the estimator is defined on. What is not defined is NaN.

    Args:
        frame: as `influence_dataset` makes it.
        path: zarr store; None for memory.
        reduce: one score a sample from a block of queries.
        groups: positions of the modules of each group whose mean influence is kept.
        resume: go on with a store that an interruption left.
    """

    def __init__(
        self,
        frame: xr.Dataset,
        path: Path | None,
        reduce: Reduce,
        groups: Mapping[str, Sequence[int]] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self._frame = frame
        self._path = path
        self._reduce = reduce
        self._groups = {name: set(modules) for name, modules in (groups or {}).items()}
        self._covered = [set(np.flatnonzero(row).tolist()) for row in frame["covered"].values]
        self._pending: dict[int, np.ndarray] = {}
        e, m, q, n = (frame.sizes[d] for d in ("estimator", "module", "query", "sample"))
        self._arrays: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "score": (("estimator", "module", "sample"), (e, m, n))
        }
        if self._groups:
            dimensions = ("estimator", "group", "query", "sample")
            self._arrays["group_influence"] = (dimensions, (e, len(self._groups), q, n))
        self._open(resume)

    def _open(self, resume: bool) -> None:
        path, modules = self._path, self._frame.sizes["module"]
        if path is None:
            self._stored: dict[str, Any] = {
                name: np.full(shape, np.nan, dtype=_PRECISION[name]) for name, (_, shape) in self._arrays.items()
            }
            self._whole: np.ndarray | zarr.Array = np.zeros(modules, dtype=bool)
            self._begin_sums()
            return
        if not (resume and (path / "whole" / ".zarray").is_file() and not self._groups):
            shutil.rmtree(path, ignore_errors=True)
            self._frame.to_zarr(path, mode="w", zarr_format=FORMAT, consolidated=False)
            for name, (dimensions, shape) in self._arrays.items():
                open_array(path, name, dimensions, shape, (1, 1, *shape[2:]), _PRECISION[name])
            open_array(path, "whole", ("module",), (modules,), (1,), "bool")
        group = zarr.open_group(str(path), mode="r+", zarr_format=FORMAT)
        self._stored = {name: group[name] for name in self._arrays}
        self._whole = group["whole"]
        self._begin_sums()

    def _begin_sums(self) -> None:
        """Zero for the groups that hold a module that an estimator is defined on; others stay NaN."""
        for e, covered in enumerate(self._covered):
            for g, members in enumerate(self._groups.values()):
                if members & covered:
                    self._stored["group_influence"][e, g] = 0

    @property
    def written(self) -> list[int]:
        """Positions of the modules that are whole."""
        return np.flatnonzero(np.asarray(self._whole[:])).tolist()

    def write(self, estimator: int, module: int, queries: slice, block: np.ndarray) -> None:
        """Reduce the influence [query, sample] of some queries, for one estimator on one module."""
        reduced = self._reduce(block, queries)
        self._pending[estimator] = self._pending.get(estimator, 0) + reduced
        for g, members in enumerate(self._groups.values()):
            inside = members & self._covered[estimator]
            if module in inside:
                here = (estimator, g, queries)
                self._stored["group_influence"][here] = self._stored["group_influence"][here] + block / len(inside)

    def complete(self, module: int) -> None:
        """Store the scores of a module."""
        for estimator, score in self._pending.items():
            self._stored["score"][estimator, module] = score
        self._pending = {}
        self._whole[module] = True

    def finish(self, variables: xr.Dataset) -> xr.Dataset:
        """Add per-query and per-sample variables and return the whole dataset."""
        if self._groups:
            variables = variables.assign_coords(group=np.array(list(self._groups), dtype=str))
        if self._path is None:
            stored = {name: (self._arrays[name][0], values) for name, values in self._stored.items()}
            return self._frame.assign_coords(variables.coords).assign(stored).assign(variables.data_vars)
        whole = variables.assign_coords(self._frame.coords).assign_attrs(self._frame.attrs)
        whole.to_zarr(self._path, mode="a", zarr_format=FORMAT, consolidated=False)
        zarr.consolidate_metadata(str(self._path), zarr_format=FORMAT)
        return open_influence(self._path)
