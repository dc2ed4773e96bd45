"""Where influence is read from, block by block."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class Blocks(Protocol):
    """Influence of one estimator: [module, query, sample]."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of modules, queries and samples."""

    @property
    def dtype(self) -> np.dtype:
        """Precision of the influence."""

    @property
    def chunk(self) -> int:
        """How many queries are best read at once."""

    def read(self, module: int, queries: slice) -> np.ndarray:
        """Influence [query, sample] of some queries on one module."""


@dataclass(frozen=True)
class Held:
    """Influence in memory; ``queries`` are the positions of those that count, all by default."""

    influence: Float[np.ndarray, "module query sample"]
    queries: Int[np.ndarray, " counted"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of modules, queries that count, and samples."""
        m, q, n = self.influence.shape
        return m, q if self.queries is None else len(self.queries), n

    @property
    def dtype(self) -> np.dtype:
        """As it is held."""
        return self.influence.dtype

    @property
    def chunk(self) -> int:
        """So many that a copy of them is small."""
        return max(1, 4_000_000 // max(self.shape[2], 1))

    def read(self, module: int, queries: slice) -> np.ndarray:
        """Some rows: a view, or where not all count, a copy."""
        block: np.ndarray = self.influence[module]
        return block[queries] if self.queries is None else block[self.queries[queries]]


def chunks(blocks: Blocks) -> list[slice]:
    """The queries in the portions that are read at once."""
    q = blocks.shape[1]
    return [slice(start, min(start + blocks.chunk, q)) for start in range(0, q, blocks.chunk)]


def read_ahead(blocks: Blocks, wanted: Sequence[tuple[int, slice]], *, ahead: bool) -> Iterator[np.ndarray]:
    """Blocks in the order wanted; with ``ahead``, the next one is read while one is worked on, so two are in memory."""
    if not ahead:
        yield from (blocks.read(*what) for what in wanted)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(blocks.read, *what) for what in wanted[:1]]
        for what in [*wanted[1:], None]:
            block = coming.pop().result()
            if what is not None:
                coming.append(reader.submit(blocks.read, *what))
            yield block
            del block
