"""Which configuration is better, over many blocks: ranks, win rates and tests.

A table of scores has one row a block (a task with a seed) and one column a configuration; a higher score is better
(an accuracy, an NDR). Every cell is filled. Tests are as in Demšar 2006; pairs are told apart by Wilcoxon's test unless
asked otherwise, as Benavoli et al. 2016 advise: Nemenyi's verdict on a pair depends on the other configurations.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import friedmanchisquare, studentized_range, wilcoxon

from undertow.metrics.intervals import percentiles, resamples

Test = Literal["wilcoxon", "nemenyi"]


def block_ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """Rank of each configuration within its block, 1 = best; ties share their mean.

    Raises:
        ValueError: when a cell is empty, or there is no block or fewer than two configurations.
    """
    _check(scores)
    return scores.rank(axis=1, ascending=False)


def average_ranks(scores: pd.DataFrame) -> pd.Series:
    """Mean rank over the blocks, best first."""
    return block_ranks(scores).mean().sort_values(kind="stable")


def win_rates(scores: pd.DataFrame) -> pd.Series:
    """Share of the comparisons with every other configuration in every block that each wins; a tie is half a win."""
    return _wins(block_ranks(scores)).mean()


def pairwise_wins(scores: pd.DataFrame) -> pd.DataFrame:
    """Share of the blocks in which the row beats the column, ties half; NaN on the diagonal."""
    _check(scores)
    values = scores.to_numpy(np.float64)
    above = (values[:, :, None] > values[:, None, :]).mean(0) + (values[:, :, None] == values[:, None, :]).mean(0) / 2
    np.fill_diagonal(above, np.nan)
    return pd.DataFrame(above, scores.columns, scores.columns)


@dataclass(frozen=True)
class Friedman:
    """Friedman's test: are all configurations alike?

    Attributes:
        statistic: χ² with configurations - 1 degrees of freedom, corrected for ties.
        p_value: small where some differ.
        blocks: number of blocks.
        configurations: number of configurations.
    """

    statistic: float
    p_value: float
    blocks: int
    configurations: int


def friedman(scores: pd.DataFrame) -> Friedman:
    """Friedman's test over the blocks (scipy).

    Raises:
        ValueError: with fewer than three configurations (Wilcoxon's test compares two), or an empty cell.
    """
    ranks = block_ranks(scores)
    blocks, count = ranks.shape
    if count < 3:
        raise ValueError(f"Friedman's test needs three configurations at least, not {count}; compare two by Wilcoxon's")
    if (ranks == (count + 1) / 2).all(axis=None):  # all tie in every block: 0/0
        return Friedman(0.0, 1.0, blocks, count)
    found = friedmanchisquare(*ranks.to_numpy().T)
    return Friedman(float(found.statistic), float(found.pvalue), blocks, count)


def nemenyi(scores: pd.DataFrame) -> pd.DataFrame:
    """Two-sided p-values of Nemenyi's test of every pair, a square frame with 1 on its diagonal.

    The difference of two average ranks over √(k(k+1)/6N), times √2, against the studentized range of k with ∞ degrees
    of freedom. It corrects for all pairs; ties are not corrected for.
    """
    ranks = block_ranks(scores)
    blocks, count = ranks.shape
    average = ranks.mean().to_numpy()
    apart = np.abs(average[:, None] - average[None]) / np.sqrt(count * (count + 1) / (6 * blocks))
    found = studentized_range.sf(apart * np.sqrt(2), count, np.inf)
    return _square(scores, {(i, j): float(found[i, j]) for i, j in combinations(range(count), 2)})


def critical_difference(configurations: int, blocks: int, *, alpha: float = 0.05) -> float:
    """Difference of average ranks from which on Nemenyi's test tells two configurations apart."""
    quantile = studentized_range.ppf(1 - alpha, configurations, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(configurations * (configurations + 1) / (6 * blocks)))


def wilcoxon_holm(scores: pd.DataFrame) -> pd.DataFrame:
    """Two-sided p-values of Wilcoxon's signed-rank test of every pair, corrected by Holm, a square frame.

    Blocks in which both score the same are left out (Wilcoxon's own way); a pair that always does has p = 1. With
    few blocks nothing can be significant: of five, the smallest p there is is 1/16 before correction.
    """
    _check(scores)
    values = scores.to_numpy(np.float64)
    pairs = list(combinations(range(values.shape[1]), 2))
    found = holm(np.array([_wilcoxon(values[:, i] - values[:, j]) for i, j in pairs]))
    return _square(scores, dict(zip(pairs, found.tolist(), strict=True)))


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Step-down correction of several p-values (Holm 1979): the family is wrong once with at most its level."""
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def statistical_ranks(scores: pd.DataFrame, *, test: Test = "wilcoxon", alpha: float = 0.05) -> pd.Series:
    """Ranks 1, 2, … of which configurations that do not differ significantly share one, best first.

    In the order of average ranks, a configuration shares the rank of the one before it unless the test tells it apart
    from the *best* of that rank, and then opens the next.

    Args:
        scores: higher = better.
        test: wilcoxon (signed ranks, corrected by Holm) or nemenyi.
        alpha: level of the family of all pairs.

    Raises:
        ValueError: for another test, or a table that `block_ranks` refuses.
    """
    if test not in ("wilcoxon", "nemenyi"):
        raise ValueError(f"test is wilcoxon or nemenyi, not {test!r}")
    order = average_ranks(scores).index
    p_values = (wilcoxon_holm if test == "wilcoxon" else nemenyi)(scores).loc[order, order].to_numpy()
    ranks, best = [1], 0
    for i in range(1, len(order)):
        apart = p_values[best, i] < alpha
        best = i if apart else best
        ranks.append(ranks[-1] + int(apart))
    return pd.Series(ranks, order)


def comparison_table(
    scores: pd.DataFrame, *, test: Test = "wilcoxon", alpha: float = 0.05, times: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """A row for each configuration, best first by average rank.

    Columns: statistical_rank, average_rank, win_rate, each of the last two with _low and _high (95% bootstrap
    interval over the blocks), and mean, std (n - 1 in the divisor) and median of the scores.
    """
    shared, ranks = statistical_ranks(scores, test=test, alpha=alpha), block_ranks(scores)
    drawn = list(resamples(len(scores), times=times, seed=seed))
    table = pd.DataFrame({"statistical_rank": shared})
    for name, values in (("average_rank", ranks), ("win_rate", _wins(ranks))):
        array = values.to_numpy()
        resampled = np.array([array[rows].mean(0) for rows in drawn])
        found = [percentiles(float(v), column) for v, column in zip(array.mean(0), resampled.T, strict=True)]
        columns = [name, f"{name}_low", f"{name}_high"]
        table[columns] = pd.DataFrame([(i.value, i.low, i.high) for i in found], ranks.columns, columns).loc[
            table.index
        ]
    return table.assign(mean=scores.mean(), std=scores.std(), median=scores.median())


def _wins(ranks: pd.DataFrame) -> pd.DataFrame:
    """Share of the others that each configuration beats in each block: one of rank r beats k - r of k - 1."""
    count = ranks.shape[1]
    return (count - ranks) / (count - 1)


def _wilcoxon(differences: Float[np.ndarray, " b"]) -> float:
    nonzero = differences[differences != 0]
    return float(wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def _square(scores: pd.DataFrame, pairs: dict[tuple[int, int], float]) -> pd.DataFrame:
    values = np.eye(scores.shape[1])
    for (i, j), value in pairs.items():
        values[i, j] = values[j, i] = value
    return pd.DataFrame(values, scores.columns, scores.columns)


def _check(scores: pd.DataFrame) -> None:
    blocks, count = scores.shape
    if blocks < 1 or count < 2:
        raise ValueError(f"a comparison needs a block and two configurations at least, not {blocks} and {count}")
    empty = scores.isna()
    if empty.any(axis=None):
        named = ", ".join(map(str, scores.index[empty.any(axis=1)][:3]))
        raise ValueError(
            f"{int(empty.to_numpy().sum())} of {scores.size} scores are missing, among them of block {named}; compare "
            "the blocks or the configurations that are complete"
        )
