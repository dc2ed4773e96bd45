"""Aggregation of an influence tensor in memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.aggregation.blocks import Held
from undertow.aggregation.engine import Engine
from undertow.aggregation.jobs import Request
from undertow.aggregation.queries import Queries


def aggregate(
    influence: Float[np.ndarray, "module query sample"],
    how: str,
    *,
    k: int | float = 0.3,
    trim: int | float = 0.1,
    only: Sequence[str] = ("all",),
    weigh: str = "equal",
    queries: Bool[np.ndarray, " query"] | None = None,
    query_weights: Float[np.ndarray, " query"] | None = None,
    module_weights: Sequence[int | float] | None = None,
    query_labels: Int[np.ndarray, " query"] | None = None,
    query_correct: Bool[np.ndarray, " query"] | None = None,
    query_confidence: Float[np.ndarray, " query"] | None = None,
    sample_labels: Int[np.ndarray, " sample"] | None = None,
) -> Float[np.ndarray, " sample"]:
    """One score per sample over all given modules; lowest = most detrimental.

    Args:
        influence: influence values, positive = helpful.
        how: name of an aggregation (see `undertow.aggregation.names.AGGREGATIONS`).
        k: for vote: share of the samples, above 0 and at most 1, or a whole number of samples above 1.
        trim: for trimmed: share of the values left out on each side.
        only: which queries count: all, correct, and same-label or other-label (than the sample).
        weigh: equal; balanced, where every class of queries weighs the same; or confidence.
        queries: which queries count at all; None for all.
        query_weights: what each query weighs, beside ``weigh``; only their proportions matter.
        module_weights: what each module weighs; likewise.
        query_labels: class of each query, for same-label, other-label and balanced.
        query_correct: whether the model predicts each query, for correct.
        query_confidence: the model's probability of each query's label, for confidence.
        sample_labels: class of each sample, for same-label and other-label.

    Raises:
        ConfigError: for what is not known or out of range, or when no query is left.
    """
    which = None if queries is None else np.flatnonzero(queries)
    given = (query_labels, query_correct, query_confidence, query_weights)
    labels, correct, confidence, own = (fact if fact is None or which is None else fact[which] for fact in given)
    blocks = Held(influence, which)
    weights = None if module_weights is None else tuple(module_weights)
    request = Request(how, tuple(range(len(influence))), k, tuple(only), weigh, trim, weights)
    engine = Engine(blocks, Queries(blocks.shape[1], labels, correct, confidence, own), sample_labels)
    return engine.answers([request])[0].score
