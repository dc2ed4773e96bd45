"""Memory that one module after the other works in."""

import math

import numpy as np
import torch
from torch import Tensor


class Scratch:
    """Gives out tensors by name, the same memory again for the same name.

    Fresh memory has to be mapped and zeroed by the system, page by page, which takes longer than most of what
    is done in it. A tensor is valid until its name is asked for again.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor of this shape in float32 or float64, whatever is in it."""
        numbers = math.prod(shape)
        held = self._held.get((name, dtype))
        if held is None or len(held) < numbers:
            # numpy asks the system for large pages, torch does not.
            held = torch.from_numpy(np.empty(numbers, dtype=str(dtype).removeprefix("torch.")))
            self._held[name, dtype] = held
        return held[:numbers].view(shape)
