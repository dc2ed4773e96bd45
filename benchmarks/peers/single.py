"""The loop most scripts write: one row at a time through autograd, on a part of the rows, scaled up to all."""

import time

import numpy as np
import torch
from torch import Tensor
from work import Outcome, Work, losses

from undertow.data import Encoded


def run(work: Work) -> Outcome:
    rows = tuple(_spread(e, work.single) for e in (work.queries, work.samples))
    start = time.perf_counter()
    queries, samples = (_gradients(work, e, r) for e, r in zip((work.queries, work.samples), rows, strict=True))
    per_row = (time.perf_counter() - start) / sum(map(len, rows))
    # The products at their full size, over the rows at hand again and again.
    start = time.perf_counter()
    repeated = np.arange(len(work.queries)) % len(rows[0]), np.arange(len(work.samples)) % len(rows[1])
    influence = {path: (queries[path][repeated[0]] @ samples[path][repeated[1]].T).numpy() for path in work.tracked}
    products = time.perf_counter() - start
    part = {path: block[: len(rows[0]), : len(rows[1])] for path, block in influence.items()}
    seconds = per_row * (len(work.queries) + len(work.samples)) + products
    return Outcome(part, tuple(part), seconds=seconds, rows=rows)


def _spread(encoded: Encoded, count: int) -> np.ndarray:
    """Positions at even distances, so that short and long rows have their share."""
    return np.linspace(0, len(encoded) - 1, min(count, len(encoded))).astype(int)


def _gradients(work: Work, encoded: Encoded, rows: np.ndarray) -> dict[str, Tensor]:
    weights = [(path, p) for path, m in work.tracked.items() for p in m.parameters()]
    found = {path: [] for path in work.tracked}
    for row in rows:
        loss = losses(work.model, work.batch(encoded, [row])).sum()
        parts = {path: [] for path in work.tracked}
        for (path, _), g in zip(weights, torch.autograd.grad(loss, [p for _, p in weights]), strict=True):
            parts[path].append(g.flatten())
        for path, p in parts.items():
            found[path].append(torch.cat(p))
    return {path: torch.stack(g) for path, g in found.items()}
