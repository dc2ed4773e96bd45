"""How far a harm depends on which queries and modules happened to be there: the bootstrap."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from undertow.aggregation.cut import check_cut, flag, harm_ranks
from undertow.aggregation.queries import QueryWeights
from undertow.errors import ConfigError

OVER = ("queries", "modules", "both")


@dataclass(frozen=True)
class Bootstrap:
    """What is resampled, and what is asked of the resamples.

    Attributes:
        resamples: how many.
        over: ``queries``, ``modules`` or ``both`` are drawn again, with replacement.
        seed: the same seed draws the same ones, for every aggregation.
        cut: share of the samples that is flagged in each resample.
        level: share of the resamples inside an interval.
        labels: of the samples, as class index; where given, each label has a cut of its own.
        cuts: share of the samples of each label that is flagged in each resample.
    """

    resamples: int = 200
    over: str = "queries"
    seed: int = 0
    cut: int | float = 0.3
    level: int | float = 0.95
    labels: Int[np.ndarray, " sample"] | None = None
    cuts: Float[np.ndarray, " label"] | None = None

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: says what is accepted.
        """
        if self.resamples < 2:
            raise ConfigError(f"--bootstrap {self.resamples} is too few. Give 2 resamples or more; 200 are usual.")
        if self.over not in OVER:
            raise ConfigError(f"--resample {self.over} is not known. Known are: {', '.join(OVER)}.")
        check_cut(self.cut)


@dataclass(frozen=True)
class Stability:
    """What resampling says of each sample.

    Attributes:
        low: lower end of the interval of its harm.
        high: upper end.
        flagged: share of the resamples in which it is flagged.
    """

    low: Float[np.ndarray, " sample"]
    high: Float[np.ndarray, " sample"]
    flagged: Float[np.ndarray, " sample"]


@dataclass
class Resampled:
    """Scores of every resample, added up module by module.

    Attributes:
        queries: weights of the queries in each resample for each class of samples.
        modules: weights of the modules in each resample.
        total: the sums.
    """

    queries: Float[np.ndarray, "class resample query"]
    modules: Float[np.ndarray, "resample module"]
    sample_class: Int[np.ndarray, " sample"]
    total: Float[np.ndarray, "resample sample"] = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros((self.modules.shape[0], len(self.sample_class)))

    def add(self, module: int, queries: slice, values: Float[np.ndarray, "query sample"]) -> None:
        """Add what some queries of the module at a position contribute: one matrix product."""
        weight = self.modules[:, module][:, None]
        for c, of_class in enumerate(self.queries):
            mine = slice(None) if len(self.queries) == 1 else np.flatnonzero(self.sample_class == c)
            self.total[:, mine] += (weight * of_class[:, queries]) @ values[:, mine]

    def add_sums(self, module: int, score: Float[np.ndarray, " sample"]) -> None:
        """Add the sum over all queries of a module, where modules alone are drawn again."""
        self.total += self.modules[:, module][:, None] * score


def draw(
    weights: QueryWeights,
    labels: Int[np.ndarray, " query"] | None,
    modules: Float[np.ndarray, " module"],
    how: Bootstrap,
) -> Resampled:
    """Draw queries and modules again.

    Queries are drawn from those that count, within each class of queries where classes are weighed apart, so that
    none goes missing. As in the whole, weights sum to the number of queries that count, and those of the modules to
    the number of modules.
    """
    random = np.random.default_rng(how.seed)
    counted: np.ndarray = np.any(weights.coefficients > 0, axis=0)[weights.cells]
    times = np.ones((how.resamples, len(counted)))
    if how.over != "modules":
        apart = labels is not None and weights.by_label
        strata = np.where(counted, labels if apart and labels is not None else 0, -1)
        for s in np.unique(strata[counted]):
            inside = np.flatnonzero(strata == s)
            times[:, inside] = random.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), how.resamples)
    queries = weights.whole[:, None, :] * times
    mass = queries.sum(axis=2, keepdims=True)
    queries = np.divide(weights.total * queries, mass, out=np.zeros_like(queries), where=mass > 0)
    m = len(modules)
    drawn = np.ones((how.resamples, m))
    if how.over != "queries":
        drawn = random.multinomial(m, np.full(m, 1 / m), how.resamples).astype(np.float64)
    kept = drawn * modules
    mass = kept.sum(axis=1, keepdims=True)
    kept = np.divide(m * kept, mass, out=np.zeros_like(kept), where=mass > 0)
    return Resampled(queries, kept, weights.sample_class)


def stability(harm: Float[np.ndarray, "resample sample"], how: Bootstrap) -> Stability:
    """Intervals of harm, and how often each sample is flagged; ties are broken as in the whole."""
    edge = (1 - how.level) / 2
    low, high = np.quantile(harm, [edge, 1 - edge], axis=0)
    flagged = np.zeros(harm.shape[1])
    labels = np.zeros(harm.shape[1], dtype=np.int64) if how.labels is None else how.labels
    cuts = np.array([how.cut]) if how.cuts is None else how.cuts
    for label, cut in enumerate(cuts.tolist()):
        mine = np.flatnonzero(labels == label)
        flagged[mine] = np.mean([flag(harm_ranks(one[mine], seed=how.seed), cut) for one in harm], axis=0)
    return Stability(low, high, flagged)
