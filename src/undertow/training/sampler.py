"""The order in which rows are trained on: random, in batches of similar length."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int

# Batches whose rows are sorted together. Larger pads less and mixes less.
_BUCKET = 16


class LengthBucketSampler(torch.utils.data.Sampler[int]):
    """Shuffles the rows, sorts buckets of 16 batches by length, and shuffles the batches.

    A batch of random texts is mostly padding: its longest row sets the width. Bucketing trains the same
    rows with less than half of the work, while each epoch still draws its batches anew. Consecutive runs of
    ``batch_size`` indices are the batches; a rest that fills no batch comes last.
    """

    def __init__(self, lengths: Int[np.ndarray, " n"], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; the same seed and epoch give the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        full = len(order) // self.batch_size * self.batch_size
        size = _BUCKET * self.batch_size
        buckets = [order[start : min(start + size, full)] for start in range(0, full, size)]
        rows = np.concatenate([b[np.argsort(self.lengths[b], kind="stable")] for b in buckets] or [order[:0]])
        batches = rows.reshape(-1, self.batch_size)
        yield from rng.permutation(batches).ravel().tolist()
        yield from order[full:].tolist()
