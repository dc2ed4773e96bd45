"""Many aggregations of a stored influence tensor, each module read and ranked once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
from jaxtyping import Float

from undertow.aggregation.engine import Engine
from undertow.aggregation.jobs import Request
from undertow.aggregation.names import AGGREGATIONS, AVERAGES, check_aggregation
from undertow.aggregation.queries import Queries
from undertow.aggregation.reductions import InMemory, OnDisk, Reductions, identity
from undertow.aggregation.stability import Bootstrap, Stability
from undertow.errors import ConfigError, RunFolderError
from undertow.influence.store import (
    check_covered,
    deciding_modules,
    module_keys,
    open_influence,
    row_count,
    user_rows,
)
from undertow.pipeline.run_folder import RunFolder
from undertow.progress import Reporter, Silent

# Where a run folder keeps what its modules were reduced to.
REDUCTIONS = "reductions"


@dataclass(frozen=True)
class Scoring:
    """What is aggregated, and how.

    Attributes:
        estimator: name, or several joined by commas, whose rows are aggregated together; None for the first of the
            tensor.
        layers: a layer expression, or positions of modules.
        aggregate: name of the aggregation.
        k: share of the samples, or number above 1, that vote looks at.
        only: which queries count.
        weigh: what each weighs.
        trim: share of the values that the trimmed mean leaves out on each side.
        module_weights: what each of the chosen modules weighs, in their order; None for the same.
    """

    estimator: str | None = None
    layers: str | tuple[int, ...] = "all"
    aggregate: str = "rank"
    k: int | float = 0.3
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    trim: int | float = 0.1
    module_weights: tuple[int | float, ...] | None = None


@dataclass(frozen=True)
class Scored:
    """What a scoring gave.

    Attributes:
        scoring: what was asked for, its estimator named.
        modules: positions of the modules that decided.
        module_weights: what each of them weighed, summing to their number.
        harm: harm of each sample, [n]; higher is worse.
        stability: what resampling says of it; None where nothing was resampled.
    """

    scoring: Scoring
    modules: tuple[int, ...]
    module_weights: Float[np.ndarray, " module"]
    harm: Float[np.ndarray, " sample"]
    stability: Stability | None = None


@dataclass(frozen=True)
class _Stored:
    """Blocks of one estimator of a dataset."""

    values: xr.DataArray

    @property
    def shape(self) -> tuple[int, int, int]:
        m, q, n = self.values.shape
        return m, q, n

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.values.dtype)

    @property
    def chunk(self) -> int:
        chunks = self.values.encoding.get("chunks")
        return max(1, chunks[-2] if chunks else self.values.shape[1])

    def read(self, module: int, queries: slice) -> np.ndarray:
        block: np.ndarray = self.values[module, queries].values
        return block


class Scorer:
    """Serves aggregations of an influence tensor; what several of them share is computed once and kept.

    Args:
        influence: as `influence_step` or `open_influence` returns it, with the tensor itself.
        reductions: folder that keeps what modules were reduced to; memory by default.
        memory: bytes to stay within; half of what is free by default.
        reporter: shows progress.

    Raises:
        ConfigError: when the tensor was not kept.
    """

    def __init__(
        self,
        influence: xr.Dataset,
        *,
        reductions: Path | None = None,
        memory: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if "influence" not in influence:
            raise ConfigError(
                "The influence tensor was not kept, only scores of its modules (--keep scores or groups), so nothing "
                "else can be aggregated. Audit again with --keep tensor."
            )
        self.influence, self._show = influence, reporter or Silent()
        self.keys = module_keys(influence)
        self.estimators: tuple[str, ...] = tuple(influence["estimator"].values.tolist())
        self._memory = psutil.virtual_memory().available // 2 if memory is None else memory
        self._queries = stored_queries(influence)
        self._sample_labels = influence["sample_label"].values if "sample_label" in influence else None
        self._scratch = reductions.parent if reductions else None
        self._reductions = self._kept_in(reductions)
        self._engines: dict[str, Engine] = {}
        self._covered: set[tuple[str, tuple[int, ...]]] = set()

    @classmethod
    def of_run(cls, run: str | Path, *, memory: int | None = None, reporter: Reporter | None = None) -> "Scorer":
        """The scorer of a run folder, which keeps its reductions there.

        Raises:
            RunFolderError: when the folder is none, or its influence is not there.
            ConfigError: when the tensor was not kept.
        """
        folder = RunFolder.made(Path(run))
        store = folder.path / "influence.zarr"
        if not folder.done("influence") or not store.is_dir():
            raise RunFolderError(
                f"{folder.path} holds no finished influence tensor. Let its audit finish: the same command goes on "
                "where it stopped."
            )
        kept = folder.path / REDUCTIONS
        return cls(user_rows(open_influence(store)), reductions=kept, memory=memory, reporter=reporter)

    def _kept_in(self, folder: Path | None) -> Reductions:
        made_of = self.influence.attrs.get("fingerprint")
        if folder is None or made_of is None:  # without it, nobody knows whether they belong to the tensor
            return InMemory(self._memory // 4)
        facts = identity(made_of, self._queries.cells, np.array(self.influence["influence"].shape))
        return OnDisk(folder, facts, self._show.say)

    def modules(self, scoring: Scoring) -> tuple[int, ...]:
        """Positions of the modules that decide, ascending.

        Raises:
            ConfigError: when the estimator is not there, is not defined on them, or none is selected.
        """
        estimator = self._estimator(scoring)
        if isinstance(scoring.layers, str):
            covered = self.influence["covered"].sel(estimator=estimator).values
            chosen = deciding_modules(self.keys, covered, scoring.layers)
        else:
            chosen = list(scoring.layers)
        modules = tuple(chosen)
        if (estimator, modules) not in self._covered:  # looking it up takes longer than many an aggregation
            check_covered(self.influence, estimator, chosen)
            self._covered.add((estimator, modules))
        return modules

    def scores(self, scorings: Sequence[Scoring], bootstrap: Bootstrap | None = None) -> list[Scored]:
        """Harm of each sample for each scoring, from one pass over the modules of each estimator.

        Raises:
            ConfigError: for a scoring that cannot be served.
        """
        parts = [tuple(replace(s, estimator=name) for name in self._estimators(s, bootstrap)) for s in scorings]
        each = list(dict.fromkeys(part for some in parts for part in some))
        found = dict(zip(each, self._single(each, bootstrap), strict=True))
        return [_together([found[part] for part in some]) for some in parts]

    def _single(self, scorings: Sequence[Scoring], bootstrap: Bootstrap | None) -> list[Scored]:
        named = [replace(s, estimator=self._estimator(s)) for s in scorings]
        requests = [self._request(s) for s in named]
        for s, r in zip(named, requests, strict=True):  # before anything is computed
            self._engine(s).check(r, bootstrap)
        found: dict[int, Scored] = {}
        for estimator in dict.fromkeys(s.estimator for s in named):
            mine = [i for i, s in enumerate(named) if s.estimator == estimator]
            total = len({m for i in mine for m in requests[i].modules})
            with self._show.track("aggregation of the modules", total) as advance:
                engine = self._engine(named[mine[0]])
                answers = engine.answers([requests[i] for i in mine], bootstrap, advance)
            for i, a in zip(mine, answers, strict=True):
                found[i] = Scored(named[i], requests[i].modules, a.module_weights, -a.score, a.stability)
        return [found[i] for i in range(len(named))]

    def module_harm(self, scoring: Scoring) -> Float[np.ndarray, "module sample"]:
        """Harm by each of the chosen modules alone, in their order.

        Raises:
            ConfigError: for a scoring that cannot be served.
        """
        alone = [replace(scoring, layers=(m,), module_weights=None) for m in self.modules(scoring)]
        return np.stack([found.harm for found in self.scores(alone)])

    def _request(self, s: Scoring) -> Request:
        return Request(s.aggregate, self.modules(s), s.k, s.only, s.weigh, s.trim, s.module_weights)

    def _estimator(self, scoring: Scoring) -> str:
        name = scoring.estimator or self.estimators[0]
        if name not in self.estimators:
            raise ConfigError(f"--estimator {name} is not in this tensor. It holds: {', '.join(self.estimators)}.")
        return name

    def _estimators(self, scoring: Scoring, bootstrap: Bootstrap | None) -> list[str]:
        """The estimators of a scoring.

        Raises:
            ConfigError: for several where the aggregation takes one.
        """
        check_aggregation(scoring.aggregate, scoring.k, scoring.trim)
        names = list(dict.fromkeys(n.strip() for n in (scoring.estimator or self.estimators[0]).split(",")))
        alone = AGGREGATIONS[scoring.aggregate].form != "sum" or scoring.module_weights or bootstrap
        if len(names) > 1 and alone:
            sums = ", ".join(name for name, known in AGGREGATIONS.items() if known.form == "sum")
            raise ConfigError(
                f"--estimator {','.join(names)} asks for several at once, which these aggregations add up, without "
                f"resamples and weights of modules: {sums}. Ask for one of them, or for one estimator."
            )
        return names

    def _engine(self, scoring: Scoring) -> Engine:
        name = self._estimator(scoring)
        if name not in self._engines:
            self._engines[name] = Engine(
                _Stored(self.influence["influence"].sel(estimator=name)),
                self._queries,
                self._sample_labels,
                reductions=self._reductions,
                name=name,
                memory=self._memory,
                scratch=self._scratch,
                among=row_count(self.influence),
            )
        return self._engines[name]


def _together(found: Sequence[Scored]) -> Scored:
    """Several estimators as one: the sum over the rows of all, or where the aggregation is an average, theirs."""
    if len(found) == 1:
        return found[0]
    asked = found[0].scoring
    modules = tuple(sorted({m for one in found for m in one.modules}))
    weights = np.zeros(len(modules))
    for one in found:
        weights[np.searchsorted(modules, one.modules)] += one.module_weights
    rows = np.array([len(one.modules) for one in found]) if asked.aggregate in AVERAGES else np.ones(len(found))
    share = rows / rows.sum() if asked.aggregate in AVERAGES else rows
    harm = np.tensordot(share, np.stack([one.harm for one in found]), axes=1)
    name = ",".join(str(one.scoring.estimator) for one in found)
    return Scored(replace(asked, estimator=name), modules, weights, harm)


def stored_queries(influence: xr.Dataset) -> Queries:
    """What a stored tensor says of its queries."""
    names = ("query_label", "query_correct", "query_loss")
    held = {name: influence[name].values for name in names if name in influence}
    correct, loss = held.get("query_correct"), held.get("query_loss")
    return Queries(
        influence.sizes["query"],
        labels=held.get("query_label"),
        correct=None if correct is None else correct.astype(bool),
        confidence=None if loss is None else np.exp(-loss.astype(np.float64)),
        class_names=tuple(influence["class"].values.tolist()) if "class" in influence.coords else (),
    )


def memory_bytes(memory: int | float | None) -> int | None:
    """--memory in bytes.

    Raises:
        ConfigError: when it is nothing, or not finite.
    """
    if memory is None:
        return None
    if not 0 < memory < np.inf:
        raise ConfigError(f"--memory {memory:g} is not accepted. It is a number of GB above 0.")
    return int(memory * 1e9)
