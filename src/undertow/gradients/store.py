"""Where per-sample gradients are kept: memory while it fits, else memory-mapped files."""

import math
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor

from undertow.errors import ConfigError
from undertow.models.keys import ModuleKey


class GradientStore:
    """Gradients of n samples for each module: one [n, size] float array a module.

    Arrays above ``memory`` bytes in total live in files under ``folder``, which the operating system pages
    in and out; values are the same either way.
    """

    def __init__(
        self,
        keys: Sequence[ModuleKey],
        samples: int,
        *,
        folder: Path | None = None,
        memory: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.keys = tuple(keys)
        self.samples = samples
        self.bytes = samples * sum(k.size for k in keys) * dtype.itemsize
        budget = psutil.virtual_memory().available // 2 if memory is None else memory
        self.on_disk = self.bytes > budget
        if self.on_disk and folder is None:
            raise ConfigError(
                f"The gradients take {self.bytes / 1e9:.1f} GB, more than the budget of {budget / 1e9:.1f} GB, and "
                "no folder was given to keep them in. Pass a folder, a larger memory budget, or fewer modules."
            )
        self._arrays = [self._allocate(i, k.size, dtype, folder) for i, k in enumerate(self.keys)]

    def _allocate(self, position: int, size: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
        shape = (self.samples, size)
        if not self.on_disk or folder is None:
            return torch.zeros(shape, dtype=dtype)
        folder.mkdir(parents=True, exist_ok=True)
        file = str(folder / f"{position:04d}.gradients")
        flat = torch.from_file(file, shared=True, size=math.prod(shape), dtype=dtype)
        return flat.zero_().view(shape)

    def add(self, module: int, positions: Tensor, gradients: Tensor) -> None:
        """Add the gradients [m, size] of the samples at ``positions`` [m] (each at most once)."""
        array = self._arrays[module]
        array.index_add_(0, positions, gradients.to(device="cpu", dtype=array.dtype))

    def __getitem__(self, module: int) -> Tensor:
        """Gradients of one module, [n, size]."""
        return self._arrays[module]

    def __len__(self) -> int:
        return len(self.keys)
