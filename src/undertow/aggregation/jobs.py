"""One aggregation as it is asked for, and as it is worked out module by module."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undertow.aggregation.consensus import consensus_weights
from undertow.aggregation.names import (
    AGGREGATION_NAMES,
    AGGREGATIONS,
    check_aggregation,
    check_weighing,
    is_reducible,
)
from undertow.aggregation.queries import QueryWeights
from undertow.aggregation.rows import Transform, factor, transform
from undertow.aggregation.stability import Bootstrap, Resampled, Stability, draw, stability
from undertow.errors import ConfigError

# Sums of which row transform, with which weights within the cells.
Need = tuple[Transform, str]


@dataclass(frozen=True)
class Request:
    """One aggregation over some modules.

    Attributes:
        how: name of the aggregation.
        modules: positions of the modules.
        k: share of the samples, or number above 1, that vote looks at.
        only: which queries count (see `undertow.aggregation.names.ONLY`).
        weigh: what each weighs (see `undertow.aggregation.names.WEIGH`).
        trim: share of the values that the trimmed mean leaves out on each side.
        module_weights: what each of the modules weighs; None for the same.
    """

    how: str
    modules: tuple[int, ...]
    k: int | float = 0.3
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    trim: int | float = 0.1
    module_weights: tuple[int | float, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What a request gave.

    Attributes:
        score: one score per sample; lowest = most detrimental.
        stability: what resampling says of its negative, the harm; None where nothing was resampled.
        module_weights: what each module weighed, summing to their number.
    """

    score: Float[np.ndarray, " sample"]
    stability: Stability | None
    module_weights: Float[np.ndarray, " module"]


class SumJob:
    """Works out a request of the form ``sum`` or ``modules``: adds up what each module is reduced to."""

    def __init__(
        self,
        request: Request,
        weights: QueryWeights,
        samples: int,
        bootstrap: Bootstrap | None,
        among: int | None = None,
    ) -> None:
        self.request, self.weights, self._bootstrap = request, weights, bootstrap
        ranked = samples if among is None else among
        self._ranked = ranked
        what = transform(request.how, request.k, ranked)
        self.need: Need = what, "confidence" if request.weigh == "confidence" else "equal"
        self._place = {m: i for i, m in enumerate(request.modules)}
        self._given = module_weights(request)
        self._total = np.zeros(samples)
        self._apart: dict[int, np.ndarray] = {}
        self._factor = factor(request.how, weights.total * len(request.modules), ranked)
        self.resampled: Resampled | None = None

    @property
    def consensus(self) -> bool:
        """Whether the modules weigh each other, so that the scores of each are needed apart."""
        return AGGREGATIONS[self.request.how].form == "modules"

    def begin_resampling(self, labels: np.ndarray | None) -> None:
        """Draw the resamples. The weights of the modules have to be known."""
        if self._bootstrap is not None:
            self.resampled = draw(self.weights, labels, self._weights(), self._bootstrap)

    def wants_rows(self, module: int) -> bool:
        """Whether the resamples need the rows of a module, not only its sums."""
        return self.resampled is not None and module in self._place and self._over_queries

    @property
    def _over_queries(self) -> bool:
        return self._bootstrap is not None and self._bootstrap.over != "modules"

    def add(self, module: int, sums: Mapping[Need, np.ndarray]) -> None:
        """Take the sums of a module over each cell of queries."""
        if module not in self._place:
            return
        score = self.weights.combine(sums[self.need])
        if self.consensus:
            self._apart[module] = score
        else:
            self._total += self._given[self._place[module]] * score
        if self.resampled is not None and not self._over_queries:
            self.resampled.add_sums(self._place[module], score)

    def add_rows(self, module: int, queries: slice, values: Float[np.ndarray, "query sample"]) -> None:
        """Take the transformed rows of some queries on a module, for the resamples."""
        if self.resampled is not None:
            self.resampled.add(self._place[module], queries, values)

    def _weights(self) -> Float[np.ndarray, " module"]:
        if not self.consensus:
            return np.array(self._given)
        return consensus_weights(np.stack([self._apart[m][: self._ranked] for m in self.request.modules]))

    def answer(self) -> Answer:
        """The score, once every module was taken."""
        weights, total = self._weights(), self._total
        if self.consensus:
            for m, w in zip(self.request.modules, weights, strict=True):
                total = total + w * self._apart[m]
        found = None
        if self.resampled is not None and self._bootstrap is not None:
            found = stability(-self._factor * self.resampled.total, self._bootstrap)
        return Answer(self._factor * total, found, weights)


def combine(
    scores: Float[np.ndarray, "module sample"], how: str, queries: int, among: int | None = None
) -> Float[np.ndarray, " sample"]:
    """One score per sample from the sums of some modules over their queries (see `module_sum`).

    Args:
        scores: sum of the row transform over the queries of each module.
        how: an aggregation of the form ``sum`` or ``modules``.
        queries: how many queries count.
        among: number of samples that ranks were taken among; all by default.
    """
    own = scores.shape[1] if among is None else among
    weights = consensus_weights(scores[:, :own]) if AGGREGATIONS[how].form == "modules" else np.ones(len(scores))
    total = np.zeros(scores.shape[1])
    for weight, score in zip(weights, scores, strict=True):
        total += weight * score
    return factor(how, len(scores) * queries, own) * total


def check_request(request: Request, bootstrap: Bootstrap | None = None) -> None:
    """Refuse a request that no tensor could serve.

    Raises:
        ConfigError: says what is accepted.
    """
    check_aggregation(request.how, request.k, request.trim)
    if not request.modules:
        raise ConfigError("No module is chosen, so there is nothing to aggregate. Choose layers that hold one.")
    module_weights(request)
    check_weighing(request.how, request.weigh)
    if bootstrap is not None:
        bootstrap.check()
        check_resampling(request.how)
    if request.module_weights is not None and AGGREGATIONS[request.how].form != "sum":
        raise ConfigError(
            f"--aggregate {request.how} takes no weights of modules: it takes all alike, or weighs them itself. Leave "
            "the weights out."
        )


def check_resampling(how: str) -> None:
    """Refuse to resample what is no sum over modules and queries.

    Raises:
        ConfigError: names what can be resampled.
    """
    if not is_reducible(how):
        raise ConfigError(
            f"--bootstrap is not there for --aggregate {how}, which is no sum over modules and queries: each resample "
            f"would take as long as the whole. It is there for: {', '.join(filter(is_reducible, AGGREGATION_NAMES))}."
        )


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
