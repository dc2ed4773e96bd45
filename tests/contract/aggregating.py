"""Small influence tensors with all that an aggregation may be told, for Hypothesis."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undertow.aggregation.in_memory import aggregate
from undertow.aggregation.names import AGGREGATIONS
from undertow.errors import ConfigError

from .reference_aggregations import Given

# Few values make ties the rule; infinities must not come, the tensor is checked before.
tied = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0])
tensors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9)),
    elements=st.one_of(tied, st.floats(-1e3, 1e3, width=16)),
)
SUMS = [name for name, known in AGGREGATIONS.items() if known.form == "sum"]
REDUCIBLE = [name for name, known in AGGREGATIONS.items() if known.form != "order"]


@st.composite
def problems(draw: st.DrawFn, how: str, *, plain: bool = False) -> Given:
    """A tensor and options that the aggregation takes; with ``plain``, nothing but k."""
    influence = draw(tensors)
    m, q, n = influence.shape
    k = draw(st.one_of(st.floats(0.01, 1.0), st.integers(2, n).map(float) if n > 1 else st.just(1.0)))
    if plain:
        return Given(influence, k)
    classes = st.integers(0, 2)
    labels = draw(st.lists(classes, min_size=q, max_size=q))
    right = draw(st.lists(st.booleans(), min_size=q, max_size=q))
    mask = draw(st.none() | st.lists(st.booleans(), min_size=q, max_size=q))
    only = draw(st.sampled_from([("all",), ("correct",), ("same-label",), ("other-label",), ("correct", "same-label")]))
    given = Given(
        influence,
        k,
        trim=draw(st.sampled_from([0.0, 0.1, 0.3, 0.49])),
        only=only,
        query_labels=labels,
        query_correct=right,
        query_confidence=draw(st.lists(st.floats(0.0625, 1.0), min_size=q, max_size=q)),
        queries=mask,
    )
    if not given.counted:
        given = replace(given, queries=None, query_correct=[True] * q)
    # Every sample has a query of its own label, and one of another where there are two labels.
    there = sorted({labels[x] for x in given.counted})
    if len(there) == 1 and only == ("other-label",):
        there = [there[0] + 1]
    given = replace(given, sample_labels=draw(st.lists(st.sampled_from(there), min_size=n, max_size=n)))
    if how in REDUCIBLE:
        weights = st.floats(0.125, 4.0)
        given = replace(
            given,
            weigh=draw(st.sampled_from(["equal", "balanced", "confidence"])),
            query_weights=draw(st.none() | st.lists(weights, min_size=q, max_size=q)),
        )
    if how in SUMS:
        given = replace(given, module_weights=draw(st.none() | st.lists(weights, min_size=m, max_size=m)))
    return given


def told(given: Given) -> dict[str, Any]:
    """The options of `aggregate` that say the same."""
    kinds = {
        "query_labels": np.int64,
        "query_correct": bool,
        "query_confidence": np.float64,
        "sample_labels": np.int64,
        "queries": bool,
        "query_weights": np.float64,
    }
    options: dict[str, Any] = {name: getattr(given, name) for name in ("k", "trim", "only", "weigh", "module_weights")}
    for name, kind in kinds.items():
        value = getattr(given, name)
        options[name] = None if value is None else np.array(value, dtype=kind)
    return options


def aggregated(how: str, given: Given, influence: np.ndarray | None = None) -> np.ndarray:
    """What undertow makes of a problem, or of another tensor with the same options."""
    return aggregate(given.influence if influence is None else influence, how, **told(given))


def picked(given: Given, axis: str, order: list[int]) -> Given:
    """The problem with its modules, queries or samples in another order."""
    of = {
        "module": ("module_weights",),
        "query": ("query_labels", "query_correct", "query_confidence", "queries", "query_weights"),
        "sample": ("sample_labels",),
    }
    changed = {}
    for name in of[axis]:
        value = getattr(given, name)
        changed[name] = None if value is None else [value[i] for i in order]
    place = ("module", "query", "sample").index(axis)
    return replace(given, influence=np.take(given.influence, order, axis=place), **changed)


def served(how: str, given: Given) -> bool:
    """Whether every sample has a query that counts."""
    try:
        aggregated(how, given)
    except ConfigError:
        return False
    return True
