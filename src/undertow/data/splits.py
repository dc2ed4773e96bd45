"""Splits a validation set by class, and thins a set out by class."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from undertow.data.samples import Samples
from undertow.errors import ConfigError, DataError


@dataclass(frozen=True)
class ValidationParts:
    """Disjoint parts of a validation set that together hold all its rows, each in the set's order.

    Attributes:
        selection: chooses the checkpoint.
        queries: the trusted samples whose gradients judge the training samples.
        holdout: touched by neither, for measuring; None where no share was asked for.
    """

    selection: Samples
    queries: Samples
    holdout: Samples | None


def split_validation(
    samples: Samples, *, query_share: float = 0.5, holdout_share: float = 0.0, seed: int = 0
) -> ValidationParts:
    """Splits by class: ``holdout_share`` of all rows first, then ``query_share`` of the rest.

    Raises:
        ConfigError: a share is outside its range.
        DataError: a part would have no rows.
    """
    if not 0 < query_share < 1:
        raise ConfigError(f"The query share is {query_share}. It lies between 0 and 1, both excluded; 0.5 is usual.")
    if not 0 <= holdout_share < 1:
        raise ConfigError(f"The held-out share is {holdout_share}. It is at least 0 (none) and below 1.")
    rng = np.random.default_rng(seed)
    everything = np.arange(len(samples), dtype=np.int64)
    held = _stratified(samples.labels, round(holdout_share * len(samples)), rng)
    rest = np.setdiff1d(everything, held)
    queries = rest[_stratified(samples.labels[rest], round(query_share * len(rest)), rng)]
    selection = np.setdiff1d(rest, queries)
    wanted = {"selection": selection, "queries": queries} | ({"held-out": held} if holdout_share else {})
    empty = [name for name, part in wanted.items() if len(part) == 0]
    if empty:
        raise DataError(
            f"The validation set of {len(samples)} rows leaves the {' and '.join(empty)} part without rows "
            f"at a query share of {query_share} and a held-out share of {holdout_share}. Give more "
            "validation rows or other shares."
        )
    return ValidationParts(
        selection=samples.select(selection),
        queries=samples.select(queries),
        holdout=samples.select(held) if holdout_share else None,
    )


def stratified_subset(samples: Samples, size: int, *, seed: int) -> Samples:
    """At most ``size`` rows, each class in its proportion and rows in their order; unchanged if small.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    if size < 1:
        raise ConfigError(f"The number of rows to keep is {size}. It is at least 1.")
    if len(samples) <= size:
        return samples
    return samples.select(_stratified(samples.labels, size, np.random.default_rng(seed)))


def class_quotas(counts: Int[np.ndarray, " m"], size: int) -> Int[np.ndarray, " m"]:
    """How many of ``size`` rows each class gives, in proportion to its count.

    Each gives its exact share rounded down; the classes with the largest remainders give one more each, so that
    classes of any size, also of one row, need no case of their own.
    """
    # Integers throughout: float shares such as 0.1 * 30 would make remainders depend on rounding errors.
    quotas, remainders = np.divmod(counts * size, max(int(counts.sum()), 1))
    quotas[np.argsort(-remainders, kind="stable")[: size - quotas.sum()]] += 1
    return quotas


def _stratified(labels: Int[np.ndarray, " n"], size: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """``size`` positions, ascending, drawn from each class in proportion."""
    classes, counts = np.unique(labels, return_counts=True)
    picked = [
        rng.permutation(np.flatnonzero(labels == name))[:quota]
        for name, quota in zip(classes, class_quotas(counts, size), strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *picked]))
