"""Mean, Rank and Vote: from influence[module, query, sample] to one score per sample.

All three are sums over modules and queries of something computed within one row (one module, one query),
so each module is reduced once to [sample] and any layer group is a sum of such reductions. Lowest score =
most detrimental; harm is its negative.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from undertow.errors import ConfigError

AGGREGATIONS = ("mean", "rank", "vote")


def check_aggregation(how: str, k: float) -> None:
    """Refuse an unknown aggregation, or a k that is not a share.

    Raises:
        ConfigError: says what is accepted.
    """
    if how not in AGGREGATIONS:
        raise ConfigError(f"--aggregate {how} is not known. Known are: {', '.join(AGGREGATIONS)}.")
    if not 0 < k <= 1:
        raise ConfigError(f"--k {k:g} is outside its range. It is a share of the samples: above 0, at most 1.")


# Numbers of a block [query, sample] that is sorted at once: about 100 MB with its indices.
_BLOCK = 4_000_000


def ranks(influence: Float[np.ndarray, "query sample"]) -> Int[np.ndarray, "query sample"]:
    """r(x', x) = number of samples y with I[x', y] < I[x', x]: 0-based, strict, so ties share a rank."""
    order = np.argsort(influence, axis=1)
    ordered = np.take_along_axis(influence, order, axis=1)
    first = np.arange(influence.shape[1], dtype=np.int32)
    start = np.where(ordered[:, 1:] != ordered[:, :-1], first[1:], 0)
    start = np.concatenate([np.zeros((len(ordered), 1), dtype=np.int32), start], axis=1)
    np.maximum.accumulate(start, axis=1, out=start)
    result = np.empty_like(start)
    np.put_along_axis(result, order, start, axis=1)
    return result


def module_score(
    influence: Float[np.ndarray, "query sample"], how: str, k: float = 0.3
) -> Float[np.ndarray, " sample"]:
    """Reduce one module over its queries, in float64.

    mean: sum of influence. rank: sum of r. vote: -sum of max(k n - r, 0), with k n rounded to whole samples.

    Raises:
        ConfigError: for an unknown aggregation or k outside (0, 1].
    """
    check_aggregation(how, k)
    n = influence.shape[1]
    score = np.zeros(n)
    step = max(1, _BLOCK // max(n, 1))
    for rows in (influence[start : start + step] for start in range(0, len(influence), step)):
        if how == "mean":
            score += rows.sum(axis=0, dtype=np.float64)
        elif how == "rank":
            score += ranks(rows).sum(axis=0, dtype=np.float64)
        else:
            for row in rows:
                lowest, cast = votes(row, vote_count(k, n))
                score[lowest] -= cast
    return score


def votes(
    row: Float[np.ndarray, " sample"], count: int
) -> tuple[Int[np.ndarray, " lowest"], Int[np.ndarray, " lowest"]]:
    """Samples whose rank r in a row is below ``count``, and their votes count - r; only these are sorted."""
    bound = np.partition(row, count - 1)[count - 1]
    lowest = np.flatnonzero(row <= bound)  # all that tie with the last one share its rank, so they vote too
    return lowest, count - ranks(row[lowest][None])[0]


def vote_count(k: float, samples: int) -> int:
    """k of Vote in samples: the share of all samples, rounded, at least 1."""
    return max(1, round(k * samples))


def aggregate(
    influence: Float[np.ndarray, "module query sample"],
    how: str,
    *,
    k: float = 0.3,
    queries: Bool[np.ndarray, " query"] | None = None,
) -> Float[np.ndarray, " sample"]:
    """One score per sample over all given modules; lowest = most detrimental.

    Args:
        influence: influence values, positive = helpful.
        how: mean (average over modules and queries), rank (sum of ranks), or vote (minus the sum of votes).
        k: share of the samples that vote looks at.
        queries: which queries count; None for all.

    Raises:
        ConfigError: for an unknown aggregation, k outside (0, 1], or no query left.
    """
    chosen = chosen_queries(influence.shape[1], queries)
    scores = [module_score(block[chosen], how, k) for block in influence]
    return combine(scores, how, int(chosen.sum()))


def combine(scores: Sequence[Float[np.ndarray, " sample"]], how: str, queries: int) -> Float[np.ndarray, " sample"]:
    """Join the module scores of a layer group into one score per sample."""
    total: np.ndarray = np.sum(scores, axis=0)
    return total / (len(scores) * queries) if how == "mean" else total


def chosen_queries(count: int, queries: Bool[np.ndarray, " query"] | None) -> Bool[np.ndarray, " query"]:
    """Mask of the queries that count.

    Raises:
        ConfigError: when none is left.
    """
    chosen = np.ones(count, dtype=bool) if queries is None else queries
    if not chosen.any():
        raise ConfigError(
            "The model predicts none of the queries correctly, so --correct-only leaves nothing to aggregate. "
            "Leave it out, or fine-tune longer."
        )
    return chosen
