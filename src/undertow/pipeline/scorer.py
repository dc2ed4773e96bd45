"""Many aggregations of a stored influence tensor, each read and ranked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float

from undertow.aggregation.engine import Engine, Request
from undertow.aggregation.queries import Queries
from undertow.errors import ConfigError, RunFolderError
from undertow.influence.store import check_covered, deciding_modules, module_keys, open_influence
from undertow.pipeline.run_folder import RunFolder
from undertow.progress import Reporter, Silent


@dataclass(frozen=True)
class Scoring:
    """What is aggregated, and how.

    Attributes:
        estimator: name; None for the first of the tensor.
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
    k: float = 0.3
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    trim: float = 0.1
    module_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Scored:
    """What a scoring gave.

    Attributes:
        scoring: what was asked for, its estimator named.
        modules: positions of the modules that decided.
        harm: harm of each sample, [n]; higher is worse.
    """

    scoring: Scoring
    modules: tuple[int, ...]
    harm: Float[np.ndarray, " sample"]


@dataclass(frozen=True)
class _Stored:
    """Blocks of one estimator of a dataset."""

    values: xr.DataArray

    @property
    def shape(self) -> tuple[int, int, int]:
        m, q, n = self.values.shape
        return m, q, n

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
        reporter: shows progress.

    Raises:
        ConfigError: when the tensor was not kept.
    """

    def __init__(self, influence: xr.Dataset, *, reporter: Reporter | None = None) -> None:
        if "influence" not in influence:
            raise ConfigError(
                "The influence tensor was not kept, only scores of it (--keep scores or groups), so nothing else can be "
                "aggregated. Audit again with --keep tensor."
            )
        self.influence, self._show = influence, reporter or Silent()
        self.keys = module_keys(influence)
        self.estimators: tuple[str, ...] = tuple(influence["estimator"].values.tolist())
        self._queries = known_queries(influence)
        self._sample_labels = influence["sample_label"].values if "sample_label" in influence else None
        self._engines: dict[str, Engine] = {}

    @classmethod
    def of_run(cls, run: str | Path, *, reporter: Reporter | None = None) -> "Scorer":
        """The scorer of a run folder.

        Raises:
            RunFolderError: when the folder is none, or its influence is not there.
            ConfigError: when the tensor was not kept.
        """
        folder = RunFolder.read(Path(run))
        store = folder.path / "influence.zarr"
        if not folder.done("influence") or not store.is_dir():
            raise RunFolderError(
                f"{folder.path} holds no finished influence tensor. Let its audit finish: the same command goes on "
                "where it stopped."
            )
        return cls(open_influence(store), reporter=reporter)

    def modules(self, scoring: Scoring) -> tuple[int, ...]:
        """Positions of the modules that decide, ascending.

        Raises:
            ConfigError: when the estimator is not there, is not defined on them, or none is selected.
        """
        estimator = self._estimator(scoring)
        if not isinstance(scoring.layers, str):
            chosen = list(scoring.layers)
        else:
            covered = self.influence["covered"].sel(estimator=estimator).values
            chosen = deciding_modules(self.keys, covered, scoring.layers)
        check_covered(self.influence, estimator, chosen)
        return tuple(chosen)

    def scores(self, scorings: Sequence[Scoring]) -> list[Scored]:
        """Harm of each sample for each scoring, from at most one pass over the modules of each estimator.

        Raises:
            ConfigError: for a scoring that cannot be served.
        """
        return [Scored(*self._one(s)) for s in scorings]

    def module_harm(self, scoring: Scoring) -> Float[np.ndarray, "module sample"]:
        """Harm by each of the chosen modules alone, in their order.

        Raises:
            ConfigError: for a scoring that cannot be served.
        """
        request = self._request(scoring)
        return -self._engine(self._estimator(scoring)).module_scores(request)

    def _one(self, scoring: Scoring) -> tuple[Scoring, tuple[int, ...], np.ndarray]:
        request = self._request(scoring)
        return scoring, request.modules, -self._engine(self._estimator(scoring)).scores([request])[0]

    def _request(self, s: Scoring) -> Request:
        return Request(s.aggregate, self.modules(s), s.k, s.only, s.weigh, s.trim, s.module_weights)

    def _estimator(self, scoring: Scoring) -> str:
        name = scoring.estimator or self.estimators[0]
        if name not in self.estimators:
            raise ConfigError(f"--estimator {name} is not in this tensor. It holds: {', '.join(self.estimators)}.")
        return name

    def _engine(self, estimator: str) -> Engine:
        if estimator not in self._engines:
            blocks = _Stored(self.influence["influence"].sel(estimator=estimator))
            self._engines[estimator] = Engine(blocks, self._queries, self._sample_labels)
        return self._engines[estimator]


def known_queries(influence: xr.Dataset) -> Queries:
    """What a stored tensor says of its queries."""
    held = {
        name: influence[name].values for name in ("query_label", "query_correct", "query_loss") if name in influence
    }
    correct, loss = held.get("query_correct"), held.get("query_loss")
    return Queries(
        influence.sizes["query"],
        labels=held.get("query_label"),
        correct=None if correct is None else correct.astype(bool),
        confidence=None if loss is None else np.exp(-loss.astype(np.float64)),
        class_names=tuple(influence["class"].values.tolist()) if "class" in influence.coords else (),
    )
