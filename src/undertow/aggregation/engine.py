"""Many aggregations of one influence tensor from one pass over its modules."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from undertow.aggregation.names import check_aggregation
from undertow.aggregation.queries import Queries, QueryWeights, query_weights
from undertow.aggregation.rows import Rows, Transform, factor, pieces, sums, transform
from undertow.errors import ConfigError


@runtime_checkable
class Blocks(Protocol):
    """Where influence is read from: [module, query, sample], of one estimator."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of modules, queries and samples."""

    @property
    def chunk(self) -> int:
        """How many queries are best read at once."""

    def read(self, module: int, queries: slice) -> np.ndarray:
        """Influence [query, sample] of some queries on one module."""


@dataclass(frozen=True)
class Held:
    """Influence in memory."""

    influence: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of modules, queries and samples."""
        m, q, n = self.influence.shape
        return m, q, n

    @property
    def chunk(self) -> int:
        """All of them."""
        return max(1, self.shape[1])

    def read(self, module: int, queries: slice) -> np.ndarray:
        """A view of some rows."""
        part: np.ndarray = self.influence[module, queries]
        return part


@dataclass(frozen=True)
class Request:
    """One aggregation over some modules.

    Attributes:
        how: name of the aggregation.
        modules: positions of the modules.
        k: share of the samples, or number above 1, that Vote looks at.
        only: which queries count (see `undertow.aggregation.names.ONLY`).
        weigh: what each weighs (see `undertow.aggregation.names.WEIGH`).
        trim: share of the values that the trimmed mean leaves out on each side.
        module_weights: what each of the modules weighs; None for the same.
    """

    how: str
    modules: tuple[int, ...]
    k: float = 0.3
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    trim: float = 0.1
    module_weights: tuple[float, ...] | None = None


# Which row transform, and which weights within the cells.
_Need = tuple[Transform, str]


class Engine:
    """Serves aggregations of one estimator's influence; reads each module once, ranks each row once.

    Sums over rows are kept per module and cell of queries, so that another choice of modules, queries or weights is a
    sum of what is there.

    Args:
        blocks: where influence is read from.
        queries: what is known of the queries.
        sample_labels: class of each sample, numbered as the queries' labels.
        threads: how many sort at once; all cores unless given.
    """

    def __init__(
        self,
        blocks: Blocks,
        queries: Queries,
        sample_labels: Int[np.ndarray, " sample"] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.blocks, self.queries, self.sample_labels = blocks, queries, sample_labels
        self._threads = threads or len(os.sched_getaffinity(0))
        self._sums: dict[tuple[_Need, int], np.ndarray] = {}

    def scores(
        self, requests: Sequence[Request], advance: Callable[[int], None] = lambda n: None
    ) -> list[Float[np.ndarray, " sample"]]:
        """One score per sample for each request; lowest = most detrimental.

        Args:
            requests: what to compute.
            advance: told how many modules are done.

        Raises:
            ConfigError: for a request that is not known, out of range, or needs what is not known.
        """
        weights = [self.check(r) for r in requests]
        self._reduce(self._needs(requests), advance)
        return [self._sum(r, w) for r, w in zip(requests, weights, strict=True)]

    def module_scores(self, request: Request) -> Float[np.ndarray, "module sample"]:
        """The sum over queries of each module of a request apart, with lowest = most detrimental."""
        weights = self.check(request)
        self._reduce(self._needs([request]))
        n, what = self.blocks.shape[2], self._need(request)
        scale = factor(request.how, weights.total, n)
        return np.stack([scale * weights.combine(self._sums[what, m]) for m in request.modules])

    def check(self, request: Request) -> QueryWeights:
        """Refuse a request that cannot be served; the weights of its queries.

        Raises:
            ConfigError: says what is accepted.
        """
        check_aggregation(request.how, request.k, request.trim)
        if not request.modules:
            raise ConfigError("No module is chosen, so there is nothing to aggregate. Choose layers that hold one.")
        module_weights(request)
        self._need(request)
        return query_weights(self.queries, self.sample_labels, self.blocks.shape[2], request.only, request.weigh)

    def _need(self, request: Request) -> _Need:
        within = "confidence" if request.weigh == "confidence" else "equal"
        return transform(request.how, request.k, self.blocks.shape[2]), within

    def _needs(self, requests: Sequence[Request]) -> dict[int, set[_Need]]:
        """By module, what has to be computed."""
        found: dict[int, set[_Need]] = {}
        for r in requests:
            need = self._need(r)
            for m in r.modules:
                if (need, m) not in self._sums:
                    found.setdefault(m, set()).add(need)
        return found

    def _sum(self, request: Request, weights: QueryWeights) -> Float[np.ndarray, " sample"]:
        n, need = self.blocks.shape[2], self._need(request)
        total = np.zeros(n)
        for m, weight in zip(request.modules, module_weights(request), strict=True):
            total += weight * weights.combine(self._sums[need, m])
        return factor(request.how, weights.total * len(request.modules), n) * total

    def _reduce(self, needs: Mapping[int, set[_Need]], advance: Callable[[int], None] = lambda n: None) -> None:
        """Compute the sums of modules over each cell of queries."""
        q, n = self.blocks.shape[1:]
        base = {name: self.queries.base(name) for name in {within for which in needs.values() for _, within in which}}
        with ThreadPoolExecutor(self._threads) as pool:
            for m, which in sorted(needs.items()):
                into = {need: np.zeros((self.queries.cell_count, n)) for need in which}
                for at in _chunks(q, self.blocks.chunk):
                    block = self.blocks.read(m, at)
                    parts = [slice(at.start + p.start, at.start + p.stop) for p in pieces(len(block), n)]
                    work = ((block[p.start - at.start : p.stop - at.start], p) for p in parts)
                    for found in pool.map(lambda job: self._piece(*job, which, base), work):
                        for need, values in found.items():
                            into[need] += values
                self._sums |= {(need, m): values for need, values in into.items()}
                advance(1)

    def _piece(
        self, block: np.ndarray, at: slice, which: Iterable[_Need], base: Mapping[str, np.ndarray | None]
    ) -> dict[_Need, np.ndarray]:
        """Sums over each cell of some rows of one module."""
        cells = self.queries.cells[at]
        counted = cells >= 0
        rows = Rows(block if counted.all() else block[counted])
        found = {}
        for what, within in which:
            weights = base[within]
            into = np.zeros((self.queries.cell_count, block.shape[1]))
            sums(what(rows), cells[counted], None if weights is None else weights[at][counted], into)
            found[what, within] = into
        return found


def module_weights(request: Request) -> tuple[float, ...]:
    """What each module of a request weighs, scaled so that they sum to the number of modules.

    Raises:
        ConfigError: when they are not one a module, negative, or all 0.
    """
    given = request.module_weights
    if given is None:
        return (1.0,) * len(request.modules)
    total = float(np.sum(given)) if len(given) == len(request.modules) else -1.0
    if not (0 < total < np.inf) or min(given) < 0:
        raise ConfigError(
            f"Weights of modules are to be one for each of the {len(request.modules)} modules, 0 or more, at least one "
            f"above 0; {len(given)} came."
        )
    return tuple(w * len(given) / total for w in given)


def _chunks(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, max(1, step)):
        yield slice(start, min(start + step, count))
