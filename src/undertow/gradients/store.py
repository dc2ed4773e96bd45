"""Where per-sample gradients are kept: memory, or memory-mapped files that an interruption leaves whole."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from undertow.data.tokenize import Encoded
from undertow.errors import ConfigError
from undertow.gradients.columns import (
    Allocate,
    Batch,
    Column,
    DenseColumn,
    FactoredColumn,
    SparseColumn,
    Words,
    distinct_words,
)
from undertow.gradients.layouts import Layout
from undertow.gradients.matrices import Gradients
from undertow.models.keys import ModuleKey

MANIFEST = "manifest.json"
# All that a store writes; nothing else is ever removed.
_OWN = re.compile(r"manifest\.json|done|loss|probabilities|\d{4,}\.(dense|inputs|deltas|rows)")


class GradientStore:
    """Gradients of n samples for each module, with the loss and class probabilities from the same pass.

    With a folder, arrays are files that the operating system pages in and out, so memory holds what there is
    room for; rows are marked as done after they are written, and a later store with the same identity goes on
    with what is there. Without one, arrays are memory, and must fit into the budget. Values are the same.

    Args:
        layouts: how each module's gradients are held.
        encoded: the samples.
        folder: where files are put; None for memory.
        memory: bytes that arrays in memory may take; half of what is free unless given.
        dtype: precision that gradients are kept in.
        identity: what the gradients depend on (weights, data, …); a folder that holds those of another identity
            is emptied. None never reuses.

    Raises:
        ConfigError: when the gradients do not fit into the budget and there is no folder, or the folder holds files
            of others.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        encoded: Encoded,
        *,
        folder: Path | None = None,
        memory: int | None = None,
        dtype: torch.dtype = torch.float32,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.layouts = tuple(layouts)
        self.samples = len(encoded)
        self.folder = folder
        self.dtype = dtype
        self.bytes = stored_bytes(layouts, encoded, dtype)
        if folder is None:
            budget = psutil.virtual_memory().available // 2 if memory is None else memory
            if self.bytes > budget:
                raise ConfigError(
                    f"The gradients take {self.bytes / 1e9:.1f} GB, more than the budget of {budget / 1e9:.1f} GB, "
                    "and no folder was given to keep them in. Pass a folder, a larger memory budget, fewer modules, or "
                    "--project 16."
                )
        else:
            _prepare(folder, None if identity is None else _described(identity, layouts, encoded, dtype))
        self.done = self._allocate("done", "", (self.samples,), torch.uint8)
        self.loss = self._allocate("loss", "", (self.samples,), torch.float64)
        self._probabilities: Tensor | None = None
        self._columns = _columns(layouts, encoded, dtype, self._allocate)
        if folder is not None and self.finished_before:
            classes = (folder / "probabilities").stat().st_size // (8 * self.samples)
            self._probabilities = self._allocate("probabilities", "", (self.samples, classes), torch.float64)

    @property
    def keys(self) -> tuple[ModuleKey, ...]:
        """Keys of the modules."""
        return tuple(layout.key for layout in self.layouts)

    @property
    def finished_before(self) -> int:
        """Samples whose gradients are written."""
        return int(self.done.count_nonzero())

    @property
    def probabilities(self) -> Tensor:
        """Class probabilities of each sample, [n, classes] in float64."""
        if self._probabilities is None:
            raise ValueError("nothing was collected into this store yet")
        return self._probabilities

    def receive(self, module: int, batch: Batch, x: Tensor | None, delta: Tensor) -> None:
        """Take what one run of a module saw of a batch."""
        self._columns[module].receive(batch, x, delta)

    def commit(self, batch: Batch, loss: Tensor, probabilities: Tensor) -> None:
        """Write a batch, and then mark its samples as done: with 1, or 2 where a gradient is not finite."""
        finite = torch.stack([column.commit(batch) for column in self._columns]).all(0)
        if self._probabilities is None:
            shape = (self.samples, probabilities.shape[1])
            self._probabilities = self._allocate("probabilities", "", shape, torch.float64)
        self.loss[batch.positions] = loss
        self._probabilities[batch.positions] = probabilities
        self.done[batch.positions] = torch.where(finite, 1, 2).to(torch.uint8)

    def discard(self) -> None:
        """Forget what was received of a batch that was not completed."""
        for column in self._columns:
            column.discard()

    def __getitem__(self, module: int) -> Gradients:
        """Gradients of one module."""
        return self._columns[module].matrix()

    def __len__(self) -> int:
        return len(self.layouts)

    def _allocate(self, name: str, part: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if math.prod(shape) == 0:
            return torch.zeros(shape, dtype=dtype)
        if self.folder is None:
            # numpy asks the system for large pages, torch does not: a page that is first touched costs time.
            numbers = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
            return torch.from_numpy(numbers).view(dtype).view(shape)
        file = str(self.folder / f"{name}{'.' if part else ''}{part}")
        # A file that is made here is zero; one that was there keeps its values.
        return torch.from_file(file, shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def stored_bytes(layouts: Sequence[Layout], encoded: Encoded, dtype: torch.dtype) -> int:
    """Bytes that the gradients of some samples take."""
    units = float(encoded.lengths.sum())
    distinct = float(sum(len(set(ids)) for ids in encoded.input_ids))
    n = max(len(encoded), 1)
    return round(sum(layout.floats(units / n, distinct / n) for layout in layouts) * n * dtype.itemsize)


def _columns(
    layouts: Sequence[Layout], encoded: Encoded, dtype: torch.dtype, allocate: Callable[..., Tensor]
) -> list[Column]:
    lengths = torch.from_numpy(np.asarray(encoded.lengths, dtype=np.int64))
    columns: list[Column] = []
    words: dict[tuple[int, int | None], Words] = {}
    for i, layout in enumerate(layouts):
        place: Allocate = partial(allocate, f"{i:04d}")
        if layout.form == "dense":
            columns.append(DenseColumn(layout, len(encoded), dtype, place))
        elif layout.form == "factored":
            columns.append(FactoredColumn(layout, len(encoded), dtype, place, lengths))
        else:
            key = (layout.inputs, layout.padding)
            words[key] = words.get(key) or distinct_words(encoded, *key)
            columns.append(SparseColumn(layout, dtype, place, words[key]))
    return columns


def _described(
    identity: Mapping[str, Any], layouts: Sequence[Layout], encoded: Encoded, dtype: torch.dtype
) -> dict[str, Any]:
    """What a folder of gradients depends on, as JSON gives it back."""
    text = hashlib.sha256()
    for ids, label in zip(encoded.input_ids, encoded.labels.tolist(), strict=True):
        text.update(np.asarray([len(ids), label, *ids], dtype=np.int64).tobytes())
    if encoded.token_type_ids is not None:
        text.update(np.asarray([t for types in encoded.token_type_ids for t in types], dtype=np.int64).tobytes())
    described = {
        **identity,
        "samples": text.hexdigest(),
        "dtype": str(dtype),
        "layouts": [repr(layout) for layout in layouts],
    }
    restored: dict[str, Any] = json.loads(json.dumps(described))
    return restored


def _prepare(folder: Path, wanted: dict[str, Any] | None) -> None:
    """Empty the folder unless it holds what is wanted; refuse one that holds anything of others."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and gradients are kept in a folder. Give a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    manifest, temporary = folder / MANIFEST, folder / f"{MANIFEST}.tmp"
    temporary.unlink(missing_ok=True)
    held = _held(manifest)
    if wanted is not None and held == wanted:
        return
    found = list(folder.iterdir())
    ours = held is None or (isinstance(held, dict) and "layouts" in held)
    if found and not (ours and all(_OWN.fullmatch(item.name) for item in found)):
        raise ConfigError(
            f"{folder} holds files that are not a gradient cache, and nothing in it is touched. Give a new or empty "
            "folder."
        )
    # The marks go first and the manifest stays: cut short here, what is left is a cache with nothing done.
    for item in sorted(found, key=lambda item: item.name != "done"):
        if item != manifest:
            item.unlink()
    temporary.write_text(json.dumps(wanted))
    temporary.replace(manifest)


def _held(manifest: Path) -> Any:
    """What a manifest says; False where there is none that can be read."""
    try:
        return json.loads(manifest.read_text()) if manifest.is_file() else False
    except ValueError:
        return False
