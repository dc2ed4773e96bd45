"""What benchmarks/quality.py compares: estimators, layer groups, and aggregations with their parameters."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

ESTIMATORS = (
    *("cosine", "tracin", "datainf", "self-influence", "less"),
    *("tracin-we", "tracin-we-k"),  # on the word embeddings alone, where the first is the same as tracin
)
GROUPS = ("all", "att1", "att2", "att3", "att4", "query", "value", "lora_A", "lora_B", "head", "embedding")
# Order statistics look at all rows of a group at once, which takes long: of these estimators alone.
ORDER_ESTIMATORS = ("cosine", "tracin", "datainf")


@dataclass(frozen=True)
class Way:
    """An aggregation with its parameters, and the name that tables give it."""

    label: str
    how: str
    k: float = 0.3
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"


SUMS = (
    *(Way(name, name) for name in ("mean", "rank", "standardised", "vote-all")),
    *(Way(f"vote{100 * k:.0f}", "vote", k) for k in (0.1, 0.2, 0.3, 0.5)),
)
ORDERS = tuple(Way(name, name) for name in ("median", "trimmed", "minimum", "rra"))


def ways(estimator: str) -> Iterator[Way]:
    """Every aggregation that is measured for an estimator on each layer group."""
    if estimator == "self-influence":  # the same for all queries, so the choice of queries changes nothing
        yield from SUMS
        return
    orders = ORDERS if estimator in ORDER_ESTIMATORS else ()
    for way in (*SUMS, Way("consensus", "consensus"), *orders):
        yield way
        yield replace(way, label=f"{way.label}-c", only=("correct",))
    for way in SUMS:
        yield replace(way, label=f"{way.label}, same label", only=("same-label",))
        yield replace(way, label=f"{way.label}, other label", only=("other-label",))
        if way.label in ("mean", "rank", "vote30"):
            yield replace(way, label=f"{way.label}, balanced", weigh="balanced")
            yield replace(way, label=f"{way.label}, confidence", weigh="confidence")
