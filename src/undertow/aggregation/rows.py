"""What sums over rows add up: something computed within one row, that is, one module and one query."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Integer

from undertow.aggregation.names import vote_count
from undertow.aggregation.ranks import ranks_among

# Numbers of rows that are handled at once by one thread: a few megabytes with what sorting them takes.
PIECE = 200_000


class Rows:
    """Some rows of influence [row, sample], with the ranks that aggregations share."""

    def __init__(self, influence: Float[np.ndarray, "row sample"], among: int | None = None) -> None:
        """The first ``among`` samples are those that ranks and spreads are taken among; all by default."""
        self.influence = influence
        self.among = influence.shape[1] if among is None else among

    @cached_property
    def ranks(self) -> Integer[np.ndarray, "row sample"]:
        """Ranks within each row (see `undertow.aggregation.ranks.ranks_among`)."""
        return ranks_among(self.influence, self.among)


@dataclass(frozen=True)
class Transform:
    """A row transform with its parameter: ``how`` as in `TRANSFORMS`, and k of Vote in samples (else 0)."""

    how: str
    count: int = 0

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.how}-{self.count}" if self.count else self.how

    def __call__(self, rows: Rows) -> np.ndarray:
        """What the aggregation adds up, [row, sample], up to a factor (see `factor`)."""
        return TRANSFORMS[self.how](rows, self.count)


def _influence(rows: Rows, _: int) -> np.ndarray:
    return rows.influence


def _standardised(rows: Rows, _: int) -> np.ndarray:
    """(I - mean) / standard deviation, of the row; 0 where all are equal."""
    values = rows.influence.astype(np.float64)
    own = slice(0, rows.among)
    values -= values[:, own].mean(axis=1, keepdims=True)
    spread = np.sqrt(np.einsum("ij,ij->i", values[:, own], values[:, own]) / rows.among)[:, None]
    first = rows.influence[:, own]
    equal = first.min(axis=1, keepdims=True) == first.max(axis=1, keepdims=True)
    values[np.broadcast_to(equal, values.shape)] = 0
    result: np.ndarray = np.divide(values, spread, out=values, where=~equal & (spread > 0))
    return result


def _ranks(rows: Rows, _: int) -> np.ndarray:
    return rows.ranks


def _votes(rows: Rows, count: int) -> np.ndarray:
    """max(k - r, 0), for k in samples."""
    # All 65,536 samples are one more than the ranks' integers hold.
    ranks = rows.ranks if count <= np.iinfo(rows.ranks.dtype).max else rows.ranks.astype(np.int64)
    votes: np.ndarray = ranks.dtype.type(count) - np.minimum(ranks, ranks.dtype.type(count))
    return votes


def _all_votes(rows: Rows, _: int) -> np.ndarray:
    """(n - r)^2: twice the integral of max(k - r, 0) over k from 0 to n."""
    left: np.ndarray = rows.among - rows.ranks.astype(np.int64)
    left *= left
    return left


TRANSFORMS: dict[str, Callable[[Rows, int], np.ndarray]] = {
    "mean": _influence,
    "standardised": _standardised,
    "rank": _ranks,
    "vote": _votes,
    "vote-all": _all_votes,
}


def transform(how: str, k: int | float, samples: int) -> Transform:
    """The row transform of an aggregation of the form ``sum`` or ``modules``."""
    if how == "consensus":
        return Transform("rank")
    return Transform(how, vote_count(k, samples) if how == "vote" else 0)


def factor(how: str, rows: int, samples: int) -> float:
    """What the sum of a row transform is multiplied by, so that lowest = most detrimental.

    Mean and standardised are averages over ``rows`` = modules x queries; Vote over all k is normalised to 1 a row.
    """
    return {
        "mean": 1 / rows,
        "standardised": 1 / rows,
        "rank": 1.0,
        "consensus": 1.0,
        "vote": -1.0,
        "vote-all": -1 / samples**2,
    }[how]


def direction(how: str) -> float:
    """1 or -1: what makes lowest = most detrimental of a sum of row transforms."""
    return math.copysign(1.0, factor(how, 1, 1))


def pieces(rows: int, samples: int) -> list[slice]:
    """Rows in pieces that one thread handles at once."""
    step = max(1, PIECE // max(samples, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def cell_sums(
    values: np.ndarray, cells: Integer[np.ndarray, " row"], weights: Float[np.ndarray, " row"] | None
) -> tuple[Integer[np.ndarray, " cell"], Float[np.ndarray, "cell sample"]]:
    """The cells that some rows [row, sample] are of, and the sum of the rows of each, times their weights, in float64.

    Row after row, so that equal columns have equal sums wherever they stand.
    """
    there = np.unique(cells)
    result = np.empty((len(there), values.shape[1]))
    exact = np.int64 if values.dtype.kind in "ui" else np.float64
    for i, cell in enumerate(there):
        mine = np.flatnonzero(cells == cell)
        some = values if len(mine) == len(values) else values[mine]
        if weights is None:
            result[i] = some.sum(axis=0, dtype=exact)
        else:
            result[i] = (some * weights[mine][:, None]).sum(axis=0, dtype=np.float64)
    return there, result


def module_sum(
    influence: Float[np.ndarray, "query sample"],
    what: Transform,
    weights: Float[np.ndarray, "class query"],
    sample_class: Sequence[int] | np.ndarray,
    among: int | None = None,
) -> Float[np.ndarray, " sample"]:
    """Weighted sum over the queries of a module of a row transform, in float64.

    Args:
        influence: some queries of a module.
        what: the row transform.
        weights: what each of these queries weighs for samples of each class.
        sample_class: class of each sample: its row of ``weights``.
        among: the first so many samples are those that ranks and spreads are taken among; all by default.
    """
    classes = np.asarray(sample_class)
    total = np.zeros(influence.shape[1])
    counted = np.flatnonzero(weights.any(axis=0))
    for part in pieces(len(counted), influence.shape[1]):
        which = counted[part]
        values = what(Rows(influence[which], among))
        for c in range(len(weights)):
            mine = slice(None) if len(weights) == 1 else np.flatnonzero(classes == c)
            w = weights[c, which]
            some = values[:, mine]
            plain = bool((w == 1).all())
            total[mine] += (some if plain else some * w[:, None]).sum(axis=0, dtype=np.float64)
    return total
