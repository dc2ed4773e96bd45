"""Order statistics over all rows of a sample, a row being one module and one query."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

from undertow.aggregation.ranks import places
from undertow.aggregation.rows import Rows

# Bytes of a block [row, sample] that one thread works on.
_BLOCK = 16_000_000

# From the values of some samples over all rows, [sample, row], to one score each.
Statistic = Callable[[np.ndarray], np.ndarray]


def median(values: Float[np.ndarray, "sample row"]) -> Float[np.ndarray, " sample"]:
    """Median over the rows."""
    middle = ((values.shape[1] - 1) // 2, values.shape[1] // 2)
    ordered = np.partition(values, middle, axis=1)
    result: np.ndarray = ordered[:, middle].mean(axis=1, dtype=np.float64)
    return result


def trimmed(values: Float[np.ndarray, "sample row"], trim: int | float) -> Float[np.ndarray, " sample"]:
    """Mean over the rows without floor(trim x rows) values on each side."""
    rows = values.shape[1]
    out = int(trim * rows)
    ordered = np.partition(values, (out, rows - out - 1), axis=1) if out else values
    result: np.ndarray = ordered[:, out : rows - out].mean(axis=1, dtype=np.float64)
    return result


def minimum(values: Float[np.ndarray, "sample row"]) -> Float[np.ndarray, " sample"]:
    """Lowest value over the rows."""
    result: np.ndarray = values.min(axis=1).astype(np.float64)
    return result


def statistic(how: str, trim: int | float, samples: int) -> Statistic:
    """The order statistic of an aggregation of the form ``order``."""
    if how == "rra":
        from undertow.aggregation.rra import robust_ranks  # the only one that needs scipy

        return lambda values: robust_ranks(values, samples)
    return {"median": median, "minimum": minimum, "trimmed": lambda values: trimmed(values, trim)}[how]


class Gathered:
    """The values of all rows of some modules, cut into blocks of samples; on disk where memory does not hold them.

    Args:
        modules: whose rows are gathered.
        shape: numbers of queries and samples.
        kind: ``influence``, or ``places`` for the ranks within rows (see `undertow.aggregation.ranks.places`).
        memory: bytes that may stay in memory.
        dtype: precision of the influence.
        scratch: folder for what does not; the system's for temporary files by default.
    """

    def __init__(
        self,
        modules: Sequence[int],
        shape: tuple[int, int],
        kind: str,
        *,
        memory: int,
        dtype: np.dtype,
        scratch: Path | None = None,
    ) -> None:
        self._queries, n = shape
        self.kind, self._first = kind, {m: i * self._queries for i, m in enumerate(modules)}
        held = np.dtype(np.uint16 if n < 1 << 16 else np.int32) if kind == "places" else dtype
        rows = len(modules) * self._queries
        step = max(1, min(_BLOCK, memory // 8) // max(rows * held.itemsize, 1))
        self._cuts = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        self._folder = None
        if rows * n * held.itemsize <= memory:
            self._blocks: list[np.ndarray] = [np.empty((rows, c.stop - c.start), held) for c in self._cuts]
            return
        self._folder = tempfile.TemporaryDirectory(prefix="undertow-", dir=scratch)
        place = Path(self._folder.name)
        self._blocks = [np.memmap(place / f"{c.start}", held, "w+", shape=(rows, c.stop - c.start)) for c in self._cuts]

    @property
    def modules(self) -> set[int]:
        """Whose rows are gathered."""
        return set(self._first)

    def take(self, module: int, queries: slice, rows: Rows) -> None:
        """Take the rows of some queries on a module."""
        start = self._first[module]
        values = places(rows.ranks) if self.kind == "places" else rows.influence
        for cut, block in zip(self._cuts, self._blocks, strict=True):
            block[start + queries.start : start + queries.stop] = values[:, cut]

    def reduce(
        self,
        function: Statistic,
        modules: Sequence[int],
        counted: np.ndarray,
        sample_class: np.ndarray,
        pool: Executor,
    ) -> Float[np.ndarray, " sample"]:
        """A statistic of each sample over the rows that count for it.

        Args:
            function: the statistic.
            modules: over the rows of which modules.
            counted: which queries count for each class of samples, [class, query].
            sample_class: class of each sample.
            pool: works on the blocks.
        """
        rows = [np.concatenate([self._first[m] + np.flatnonzero(mine) for m in modules]) for mine in counted]

        def work(job: tuple[slice, np.ndarray]) -> np.ndarray:
            cut, block = job
            classes, found = sample_class[cut], np.empty(block.shape[1])
            for c in np.unique(classes):
                mine = np.flatnonzero(classes == c)
                some = block if len(rows[c]) == len(block) else block[rows[c]]
                found[mine] = function(np.ascontiguousarray(some[:, mine].T))
            return found

        return np.concatenate(list(pool.map(work, zip(self._cuts, self._blocks, strict=True))))

    def close(self) -> None:
        """Give back memory and disk."""
        self._blocks = []
        if self._folder is not None:
            self._folder.cleanup()


@contextmanager
def closing(gathered: Sequence[Gathered]) -> Iterator[Sequence[Gathered]]:
    """Give back what was gathered, whatever happens."""
    try:
        yield gathered
    finally:
        for one in gathered:
            one.close()
