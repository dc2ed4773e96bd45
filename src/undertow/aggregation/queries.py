"""Which queries count for which samples, and what each weighs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.aggregation.names import check_queries
from undertow.errors import ConfigError


@dataclass(frozen=True)
class Queries:
    """What aggregations may know of the queries; what is not known is None.

    Attributes:
        count: how many there are.
        labels: class of each.
        correct: whether the model predicts it.
        confidence: the model's probability of its label.
        weights: what each weighs, beside what is chosen.
        class_names: names of the classes, for messages.
    """

    count: int
    labels: Int[np.ndarray, " query"] | None = None
    correct: Bool[np.ndarray, " query"] | None = None
    confidence: Float[np.ndarray, " query"] | None = None
    weights: Float[np.ndarray, " query"] | None = None
    class_names: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> Int[np.ndarray, " query"]:
        """Number of the cell of each query; queries of a cell have the same label and are all predicted or all not.

        Whatever is chosen, all queries of a cell count or none does.
        """
        keys = np.zeros((self.count, 2), dtype=np.int64)
        if self.labels is not None:
            keys[:, 0] = self.labels
        if self.correct is not None:
            keys[:, 1] = self.correct
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        return int(self.cells.max(initial=-1)) + 1

    def base(self, weigh: str) -> Float[np.ndarray, " query"] | None:
        """What a query weighs beside the queries of its own cell; None where all weigh 1.

        Raises:
            ConfigError: when the confidence is asked for and not known.
        """
        if weigh != "confidence":
            return self.weights
        if self.confidence is None:
            raise ConfigError(
                "--weigh confidence needs the model's probability of each query's label, which is not known."
            )
        return self.confidence if self.weights is None else self.confidence * self.weights


@dataclass(frozen=True)
class QueryWeights:
    """What each query weighs for each sample, factored by cells of queries and classes of samples.

    Attributes:
        coefficients: what a cell weighs for the samples of a class, beside the weights within the cell.
        base: weights within the cells, [query]; None for 1.
        cells: cell of each query.
        sample_class: row of the coefficients of each sample, [sample].
        total: sum of the weights of each sample's queries: the number of queries that count.
        by_label: whether queries of different labels are chosen or weighed apart.
    """

    coefficients: Float[np.ndarray, "class cell"]
    base: Float[np.ndarray, " query"] | None
    cells: Int[np.ndarray, " query"]
    sample_class: Int[np.ndarray, " sample"]
    total: int
    by_label: bool

    @cached_property
    def whole(self) -> Float[np.ndarray, "class query"]:
        """What each query weighs for the samples of each class."""
        found: np.ndarray = self.coefficients[:, self.cells]
        return found if self.base is None else found * self.base

    def combine(self, reduced: Float[np.ndarray, "cell sample"]) -> Float[np.ndarray, " sample"]:
        """Sum over the queries from the sums within each cell."""
        alike = len(self.coefficients) == 1
        weights = self.coefficients[0][:, None] if alike else self.coefficients.T[:, self.sample_class]
        total: np.ndarray = (weights * reduced).sum(axis=0)
        return total


def query_weights(
    queries: Queries,
    sample_labels: Int[np.ndarray, " sample"] | None,
    samples: int,
    only: Sequence[str] = ("all",),
    weigh: str = "equal",
) -> QueryWeights:
    """Weights of the chosen queries, scaled so that for every sample they sum to the number of queries that count.

    So where all count and weigh the same, each weighs 1 and a score is the plain sum over the queries.

    Raises:
        ConfigError: for a choice that is not known, needs what is not known, or leaves a sample without queries.
    """
    check_queries(only, weigh)
    counted = counted_queries(queries, only)
    base = queries.base(weigh)
    plain = np.ones(queries.count) if base is None else base
    if (plain < 0).any() or not np.isfinite(plain).all():
        raise ConfigError("Weights of queries are to be finite and 0 or more.")
    inside = np.where(counted, plain, 0.0)
    count = queries.cell_count
    held = np.bincount(queries.cells[counted], weights=inside[counted], minlength=count)
    if not held.any():
        raise ConfigError("All queries that count weigh 0. Give at least one a weight above 0.")
    labels = _cell_labels(queries, count)
    scale = (held > 0).astype(np.float64)
    if weigh == "balanced":
        _needed(queries.labels, "--weigh balanced", "the label of each query")
        of_class = np.bincount(labels, weights=held)
        scale = np.divide(1.0, of_class[labels], out=np.zeros(count), where=held > 0)
    allowed, classes = _allowed(labels, queries, sample_labels, samples, only)
    total = int(counted.sum())
    mass = (allowed * scale * held).sum(axis=1, keepdims=True)
    if not mass.all():
        raise ConfigError(_lonely(np.flatnonzero(mass[:, 0] == 0), sample_labels, queries, only))
    plainly = weigh != "balanced" and base is None and allowed.all()
    coefficients = allowed * scale * (1.0 if plainly else total / mass)
    by_label = weigh == "balanced" or any(name.endswith("label") for name in only)
    return QueryWeights(coefficients, base, queries.cells, classes, total, by_label)


def counted_queries(queries: Queries, only: Sequence[str] = ("all",)) -> Bool[np.ndarray, " query"]:
    """Which queries count for any sample at all.

    Raises:
        ConfigError: when none is left, or it is not known which.
    """
    counted = np.ones(queries.count, dtype=bool)
    if not counted.any():
        raise ConfigError("The mask of queries leaves none to aggregate. Let at least one count.")
    if "correct" in only:
        counted = counted & _needed(queries.correct, "--only correct", "whether the model predicts each query")
    if not counted.any():
        raise ConfigError(
            "The model predicts none of the queries correctly, so --correct-only (--only correct) leaves nothing to "
            "aggregate. Leave it out, or fine-tune longer."
        )
    return counted


def _cell_labels(queries: Queries, count: int) -> Int[np.ndarray, " cell"]:
    labels = np.zeros(count, dtype=np.int64)
    if queries.labels is not None:
        labels[queries.cells] = queries.labels
    return labels


def _allowed(
    labels: Int[np.ndarray, " cell"],
    queries: Queries,
    sample_labels: Int[np.ndarray, " sample"] | None,
    samples: int,
    only: Sequence[str],
) -> tuple[Bool[np.ndarray, "class cell"], Int[np.ndarray, " sample"]]:
    """Which cells count for which class of samples, and the class of each sample."""
    wanted = next((name for name in only if name.endswith("label")), None)
    if wanted is None:
        return np.ones((1, len(labels)), dtype=bool), np.zeros(samples, dtype=np.int64)
    _needed(queries.labels, f"--only {wanted}", "the label of each query")
    own = _needed(sample_labels, f"--only {wanted}", "the label of each sample")
    there, classes = np.unique(own, return_inverse=True)
    same = there[:, None] == labels[None, :]
    return (same if wanted == "same-label" else ~same), classes.reshape(-1)


def _lonely(classes: np.ndarray, sample_labels: np.ndarray | None, queries: Queries, only: Sequence[str]) -> str:
    if sample_labels is None:
        return "No query that counts has a weight above 0."
    there = np.unique(sample_labels)[classes]
    names = [queries.class_names[i] if i < len(queries.class_names) else str(i) for i in there.tolist()]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"--only {','.join(only)} leaves samples labelled {shown} without a query. Choose the queries otherwise, or "
        "give queries of every label."
    )


def _needed(value: np.ndarray | None, option: str, what: str) -> np.ndarray:
    if value is None:
        raise ConfigError(f"{option} needs {what}, which is not known here.")
    return value
