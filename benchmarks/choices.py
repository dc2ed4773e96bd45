"""Harm by all choices of estimator, layers, aggregation and k that a tensor can serve: what hindsight could pick."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from undertow.aggregation.names import AGGREGATION_NAMES, AGGREGATIONS
from undertow.influence.store import module_keys, standard_groups
from undertow.pipeline.scorer import Scorer, Scoring

# Order statistics hold all values at once, and take long; the others are served from one pass.
TRIED = tuple(name for name in AGGREGATION_NAMES if AGGREGATIONS[name].form != "order")
SHARES = (0.1, 0.2, 0.3, 0.5)


def scorings(influence: xr.Dataset) -> Iterator[tuple[str, Scoring]]:
    """Name and scoring of every choice."""
    keys, right = module_keys(influence), influence["query_correct"].values
    which = ("all", "correct") if 0 < right.mean() < 1 else ("all",)
    for estimator in influence["estimator"].values.tolist():
        for group, modules in standard_groups(keys, influence["covered"].sel(estimator=estimator).values).items():
            for how in TRIED:
                for k in SHARES if "k" in AGGREGATIONS[how].needs else (None,):
                    for only in which:
                        share = "" if k is None else f" {k:.0%}"
                        name = f"{estimator}, {group}, {how}{share}" + (", correct" if only == "correct" else "")
                        yield name, Scoring(estimator, modules, how, k or 0.3, (only,))


def all_harms(influence: xr.Dataset) -> dict[str, np.ndarray]:
    """Harm of every row by each choice."""
    chosen = dict(scorings(influence))
    found = Scorer(influence).scores(list(chosen.values()))
    return {name: scored.harm for name, scored in zip(chosen, found, strict=True)}
