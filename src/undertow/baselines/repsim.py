"""RepSim: similarity of hidden states between queries and samples, and what it says of harm."""

import numpy as np
from jaxtyping import Float, Int

from undertow.baselines.cosine import unit_rows
from undertow.errors import DataError


def repsim(query_states: Float[np.ndarray, "q h"], sample_states: Float[np.ndarray, "n h"]) -> Float[np.ndarray, "q n"]:
    """Cosine of the hidden states of queries and samples in one layer; read like influence, it needs no labels.

    Vitel & Chhabra, arXiv 2511.04715. A zero state has cosine 0 with everything.
    """
    cosines: np.ndarray = unit_rows(query_states) @ unit_rows(sample_states).T
    return cosines


def repsim_harm(
    states: Float[np.ndarray, "n h"],
    labels: Int[np.ndarray, " n"],
    query_states: Float[np.ndarray, "q h"],
    query_labels: Int[np.ndarray, " q"],
) -> Float[np.ndarray, " n"]:
    """Mean cosine to the queries of other classes minus mean cosine to those of the given label; in [-2, 2].

    The mean over queries is taken before the inner product, so no [q, n] block is held.

    Raises:
        DataError: no query bears the label of some sample, or all queries bear it.
    """
    check_queries(labels, query_labels)
    samples, queries = unit_rows(states), unit_rows(query_states)
    harm = np.empty(len(samples))
    for label in np.unique(labels):
        own, rows = query_labels == label, labels == label
        harm[rows] = samples[rows] @ (queries[~own].mean(axis=0) - queries[own].mean(axis=0))
    return harm


def check_queries(labels: Int[np.ndarray, " n"], query_labels: Int[np.ndarray, " q"]) -> None:
    """Refuse labels of samples that no query has, or that all queries have.

    Raises:
        DataError: names the first such class.
    """
    for label in np.unique(labels):
        own = query_labels == label
        if not own.any() or own.all():
            raise DataError(
                f"{int(own.sum())} of {len(own)} queries are of class {label}, which samples are labelled with: "
                "RepSim compares a sample with queries of its own and of other classes. Give queries of both."
            )


def repsim_plain_harm(
    states: Float[np.ndarray, "n h"], query_states: Float[np.ndarray, "q h"]
) -> Float[np.ndarray, " n"]:
    """Minus the mean cosine to all queries, the Mean aggregation of `repsim`; in [-1, 1]. Ignores the labels.

    Raises:
        DataError: there are no queries.
    """
    if not len(query_states):
        raise DataError("RepSim compares samples with queries, and there are none. Give at least one.")
    harm: np.ndarray = -(unit_rows(states) @ unit_rows(query_states).mean(axis=0))
    return harm
