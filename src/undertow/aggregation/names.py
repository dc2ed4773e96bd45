"""Names of the aggregations, what each is and needs, known without loading any of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from undertow.errors import ConfigError

# How an aggregation is put together, which says what it can do:
#   sum      a sum over rows (one module, one query) of something computed within the row: reducible module by module,
#            with any weights of queries and modules, resampled at little cost
#   modules  a sum over modules of such sums, with weights that the modules give each other
#   order    an order statistic over all rows of a sample: needs all of them at once, and takes every row alike
Form = Literal["sum", "modules", "order"]


@dataclass(frozen=True)
class Aggregation:
    """What is known of an aggregation by its name.

    Attributes:
        summary: one line for users.
        form: how it is put together.
        needs: parameters it takes: ``k``, ``trim``.
    """

    summary: str
    form: Form = "sum"
    needs: frozenset[str] = frozenset()


AGGREGATIONS: dict[str, Aggregation] = {
    "mean": Aggregation("average influence; large gradients weigh more"),
    "standardised": Aggregation("average of the z-scores within each module and query"),
    "rank": Aggregation("sum of ranks; every query and module weighs the same"),
    "vote": Aggregation("each query and module votes against its worst k", needs=frozenset({"k"})),
    "vote-all": Aggregation("vote integrated over every k, so that none is to be chosen"),
    "consensus": Aggregation("ranks, modules weighted by how well they agree with the others", "modules"),
    "median": Aggregation("median influence over modules and queries", "order"),
    "trimmed": Aggregation("mean influence without the extremes on both sides", "order", frozenset({"trim"})),
    "minimum": Aggregation("lowest influence over modules and queries", "order"),
    "rra": Aggregation("robust rank aggregation: ranks lower than chance would have them", "order"),
}
AGGREGATION_NAMES = tuple(AGGREGATIONS)
# Of the sums, those that are divided by the number of rows.
AVERAGES = frozenset({"mean", "standardised"})

# Which queries count for a sample; the last two go by the labels of both.
ONLY = ("all", "correct", "same-label", "other-label")
# What a query weighs: the same; so much that every class of queries weighs the same; the model's probability of its
# label.
WEIGH = ("equal", "balanced", "confidence")


def check_aggregation(how: str, k: int | float = 0.3, trim: int | float = 0.1) -> None:
    """Refuse an unknown aggregation, or a parameter outside its range.

    Raises:
        ConfigError: says what is accepted.
    """
    if how not in AGGREGATIONS:
        raise ConfigError(f"--aggregate {how} is not known. Known are: {', '.join(AGGREGATIONS)}.")
    if not (0 < k <= 1 or (1 < k < math.inf and k == int(k))):
        raise ConfigError(
            f"--k {k:g} is outside its range. It is a share of the samples, above 0 and at most 1, or a whole number "
            "of samples above 1."
        )
    if not 0 <= trim < 0.5:
        raise ConfigError(f"--trim {trim:g} is outside its range. It is a share of the values: 0 or more, below 0.5.")


def check_queries(only: Sequence[str], weigh: str) -> None:
    """Refuse an unknown choice or weight of queries, and choices that leave none.

    Raises:
        ConfigError: says what is accepted.
    """
    unknown = [name for name in only if name not in ONLY]
    if unknown or not only:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"--only got {came}. Known are: {', '.join(ONLY)}; several are joined by commas.")
    if {"same-label", "other-label"} <= set(only):
        raise ConfigError(
            "--only same-label,other-label leaves no query. Give one of them, or neither for all queries."
        )
    if weigh not in WEIGH:
        raise ConfigError(f"--weigh {weigh} is not known. Known are: {', '.join(WEIGH)}.")


def is_reducible(how: str) -> bool:
    """Whether an aggregation reduces each module to one score a sample, and can be weighed and resampled."""
    return AGGREGATIONS[how].form != "order"


def check_weighing(how: str, weigh: str) -> None:
    """Refuse to weigh the queries of an order statistic.

    Raises:
        ConfigError: names the aggregations that weigh.
    """
    if weigh != "equal" and not is_reducible(how):
        raise ConfigError(
            f"--aggregate {how} takes every query and module alike, so --weigh {weigh} means nothing to it. Use "
            f"--weigh equal, or one of: {', '.join(filter(is_reducible, AGGREGATION_NAMES))}."
        )


def vote_count(k: int | float, samples: int) -> int:
    """k of Vote in samples: a share is rounded, at least 1; a whole number above 1 is taken as it is.

    Raises:
        ConfigError: when k is more than there are samples.
    """
    if k <= 1:
        return max(1, round(k * samples))
    if k > samples:
        raise ConfigError(
            f"--k {k:g} is more than the {samples:,} samples there are. Give a share of them, above 0 and at most 1, "
            f"or a whole number up to {samples:,}."
        )
    return int(k)
