"""Many aggregations of one influence tensor from one pass over its modules."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from undertow.aggregation.blocks import Blocks, chunks, read_ahead
from undertow.aggregation.jobs import Answer, Need, Request, SumJob, check_request
from undertow.aggregation.names import AGGREGATIONS
from undertow.aggregation.orders import Gathered, closing, statistic
from undertow.aggregation.queries import Queries, QueryWeights, query_weights
from undertow.aggregation.reductions import InMemory, Reductions
from undertow.aggregation.rows import Rows, cell_sums, pieces, transform
from undertow.aggregation.stability import Bootstrap
from undertow.errors import ConfigError

# Bytes of memory that are used unless told otherwise.
MEMORY = 2_000_000_000
# Numbers of a block that are worked on before their results are added up.
_WINDOW = 8_000_000


@dataclass(frozen=True)
class _Work:
    """What is to be made of one module while its rows are there."""

    needs: frozenset[Need]
    gathered: tuple[Gathered, ...]
    resampling: tuple[SumJob, ...]

    def __bool__(self) -> bool:
        return bool(self.needs or self.gathered or self.resampling)


class Engine:
    """Serves aggregations of one estimator's influence; reads each module once, ranks each row once.

    Sums over rows are kept per module and cell of queries (see `Queries.cells`), so that another choice of modules,
    queries or weights is a sum of what is there.

    Args:
        blocks: where influence is read from.
        queries: what is known of the queries.
        sample_labels: class of each sample, numbered as the queries' labels.
        reductions: where sums are kept; in memory by default.
        name: what they are called there, such as the estimator.
        memory: bytes to stay within. One block is always read, however large.
        scratch: folder for what memory does not hold.
        threads: how many sort at once; all cores unless given.
        among: the first so many samples are those that ranks and spreads are taken among; those behind them are
            control rows. All by default.
    """

    def __init__(
        self,
        blocks: Blocks,
        queries: Queries,
        sample_labels: Int[np.ndarray, " sample"] | None = None,
        *,
        reductions: Reductions | None = None,
        name: str = "influence",
        memory: int = MEMORY,
        scratch: Path | None = None,
        threads: int | None = None,
        among: int | None = None,
    ) -> None:
        self.blocks, self.queries, self.sample_labels = blocks, queries, sample_labels
        self._reductions: Reductions = reductions or InMemory(memory // 4)
        self._name, self._memory, self._scratch = name, memory, scratch
        self._threads = threads or cores()
        self._among = blocks.shape[2] if among is None else among

    def answers(
        self,
        requests: Sequence[Request],
        bootstrap: Bootstrap | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Answer]:
        """One score per sample for each request, from one pass over all their modules.

        Args:
            requests: what to compute.
            bootstrap: what to resample, for all of them.
            advance: told how many modules are done.

        Raises:
            ConfigError: for a request that is not known, out of range, or needs what is not known.
        """
        weights = [self.check(r, bootstrap) for r in requests]
        n = self.blocks.shape[2]
        forms = [AGGREGATIONS[r.how].form for r in requests]
        jobs = {
            i: SumJob(r, w, n, bootstrap, self._among)
            for i, (r, w, form) in enumerate(zip(requests, weights, forms, strict=True))
            if form != "order"
        }
        late = [job for job in jobs.values() if job.consensus and bootstrap is not None]
        for job in jobs.values():
            if job not in late:
                job.begin_resampling(self.queries.labels)
        ordered = [r for r, form in zip(requests, forms, strict=True) if form == "order"]
        with closing(self._gathering(ordered)) as gathered, ThreadPoolExecutor(self._threads) as pool:
            self._pass(list(jobs.values()), gathered, pool, advance)
            if late:  # what the modules weigh was not known before
                for job in late:
                    job.begin_resampling(self.queries.labels)
                self._pass(late, (), pool, advance)
            return [
                jobs[i].answer() if i in jobs else self._ordered(r, w, gathered, pool)
                for i, (r, w) in enumerate(zip(requests, weights, strict=True))
            ]

    def check(self, request: Request, bootstrap: Bootstrap | None = None) -> QueryWeights:
        """Refuse a request that cannot be served; else what the queries weigh.

        Raises:
            ConfigError: says what is accepted.
        """
        check_request(request, bootstrap)
        n = self.blocks.shape[2]
        if AGGREGATIONS[request.how].form == "order":
            if self.queries.weights is not None:
                raise ConfigError(f"--aggregate {request.how} takes every query alike. Leave out their weights.")
        else:
            transform(request.how, request.k, self._among)
        return query_weights(self.queries, self.sample_labels, n, request.only, request.weigh)

    def _gathering(self, ordered: Sequence[Request]) -> list[Gathered]:
        """What order statistics need, one of a kind."""
        kinds: dict[str, set[int]] = {}
        for r in ordered:
            kinds.setdefault(_kind(r), set()).update(r.modules)
        return [
            Gathered(
                sorted(modules),
                self.blocks.shape[1:],
                kind,
                memory=self._memory // (2 * len(kinds)),
                dtype=self.blocks.dtype,
                scratch=self._scratch,
            )
            for kind, modules in kinds.items()
        ]

    def _pass(
        self, jobs: Sequence[SumJob], gathered: Sequence[Gathered], pool: Executor, advance: Callable[[int], None]
    ) -> None:
        """Take every module that something is asked of, and read those that something is to be made of."""
        asked = {m for job in jobs for m in job.request.modules} | {m for g in gathered for m in g.modules}
        work = {m: self._work(m, jobs, gathered) for m in sorted(asked)}
        parts = chunks(self.blocks)
        largest = self.blocks.chunk * self.blocks.shape[2] * self.blocks.dtype.itemsize
        wanted = [(m, at) for m, some in work.items() if some for at in parts]
        blocks = read_ahead(self.blocks, wanted, ahead=2 * largest <= self._memory // 3)
        for m, some in work.items():
            needs = {job.need for job in jobs if m in job.request.modules}
            found = {need: self._reductions.get(self._named(need), m) for need in needs - some.needs}
            if some:
                found |= self._module(m, some, zip(parts, blocks, strict=False), pool)
            for job in jobs:
                job.add(m, found)
            advance(1)

    def _work(self, module: int, jobs: Sequence[SumJob], gathered: Sequence[Gathered]) -> _Work:
        needs = {job.need for job in jobs if module in job.request.modules}
        return _Work(
            frozenset(need for need in needs if not self._reductions.has(self._named(need), module)),
            tuple(g for g in gathered if module in g.modules),
            tuple(job for job in jobs if job.wants_rows(module)),
        )

    def _named(self, need: Need) -> str:
        what, within = need
        return f"{self._name}/{what.name}" + ("" if within == "equal" else f".{within}")

    def _module(
        self, m: int, work: _Work, blocks: Iterable[tuple[slice, np.ndarray]], pool: Executor
    ) -> dict[Need, np.ndarray]:
        """The sums of a module over each cell, and whatever else is to be made of its rows."""
        n = self.blocks.shape[2]
        into = {need: np.zeros((self.queries.cell_count, n)) for need in work.needs}
        # Rows whose pieces are in memory at once, with what they add up to.
        window = max(1, min(_WINDOW, self._memory // 64) // max(n, 1))
        for at, block in blocks:
            for start in range(0, len(block), window):
                rows = block[start : start + window]
                self._window(m, at.start + start, rows, work, into, pool)
        for need, values in into.items():
            self._reductions.put(self._named(need), m, values)
        return into

    def _window(
        self, m: int, first: int, rows: np.ndarray, work: _Work, into: Mapping[Need, np.ndarray], pool: Executor
    ) -> None:
        spread = {job.need[0]: np.empty(rows.shape) for job in work.resampling}
        base = {within: self.queries.base(within) for _, within in work.needs}

        def piece(part: slice) -> dict[Need, tuple[np.ndarray, np.ndarray]]:
            some, at = Rows(rows[part], self._among), slice(first + part.start, first + part.stop)
            for what, values in spread.items():
                values[part] = what(some)
            for g in work.gathered:
                g.take(m, at, some)
            weights = {within: None if b is None else b[at] for within, b in base.items()}
            return {(w, b): cell_sums(w(some), self.queries.cells[at], weights[b]) for w, b in work.needs}

        # In the order of the rows, whichever thread is first: sums do not depend on the number of threads.
        for found in pool.map(piece, pieces(len(rows), rows.shape[1])):
            for need, (cells, values) in found.items():
                into[need][cells] += values
        at = slice(first, first + len(rows))
        for job in work.resampling:
            job.add_rows(m, at, spread[job.need[0]])

    def _ordered(self, request: Request, weights: QueryWeights, gathered: Sequence[Gathered], pool: Executor) -> Answer:
        mine = next(g for g in gathered if g.kind == _kind(request))
        counted = (weights.coefficients > 0)[:, weights.cells]
        how = statistic(request.how, request.trim, self.blocks.shape[2])
        score = mine.reduce(how, request.modules, counted, weights.sample_class, pool)
        return Answer(score, None, np.ones(len(request.modules)))


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _kind(request: Request) -> str:
    return "places" if request.how == "rra" else "influence"
