"""In which precision gradients are computed and kept."""

import math
import time
from functools import cache

import torch

from undertow.models.kernels import times_transposed
from undertow.pipeline.settings import AuditSettings

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def kept_dtype(settings: AuditSettings) -> torch.dtype:
    """Precision that gradients are kept in."""
    return PRECISIONS[settings.gradient_dtype]


def compute_dtype(settings: AuditSettings, device: str) -> torch.dtype | None:
    """Precision that the model computes in, None for that of its weights.

    ``fast`` takes bfloat16 where a matrix product shows it to be faster: some CPUs have no instructions for it.
    """
    if settings.compute_dtype == "bfloat16" or (settings.fast and _bfloat16_pays(device)):
        return torch.bfloat16
    return None


@cache
def _bfloat16_pays(device: str) -> bool:
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(512, 512, dtype=dtype, device=device) for _ in range(2))
        best = math.inf
        for _ in range(4):  # the first one warms up
            start = time.perf_counter()
            float(times_transposed(a, b)[0, 0])  # reading a value waits for the device
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
    return seconds[1] < 0.8 * seconds[0]
