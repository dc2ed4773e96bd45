"""From the influence tensor to the harm of layer groups."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from undertow.aggregation.jobs import combine
from undertow.aggregation.queries import counted_queries
from undertow.aggregation.rows import direction
from undertow.influence.store import check_covered, row_count
from undertow.pipeline.scorer import Scorer, Scoring, memory_bytes, stored_queries
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter


def group_harm(
    influence: xr.Dataset,
    groups: Mapping[str, list[int]],
    settings: AuditSettings,
    *,
    estimator: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, np.ndarray]:
    """Harm of each sample [n] for several layer groups, from one pass over the modules.

    Args:
        influence: as `influence_step` returns it.
        groups: name to positions of modules.
        settings: aggregation, its parameters, and which queries count.
        estimator: which estimator; the settings' first by default.
        reporter: shows progress.
    """
    name = estimator or settings.estimators[0]
    if "score" in influence:  # what the influence stage was told to keep
        return _from_scores(influence, groups, settings, name)
    scorer = Scorer(influence, memory=memory_bytes(settings.memory), reporter=reporter)
    asked = [
        Scoring(name, tuple(ms), settings.aggregate, settings.k, settings.counted, settings.weigh)
        for ms in groups.values()
    ]
    return {g: found.harm for g, found in zip(groups, scorer.scores(asked), strict=True)}


def _from_scores(
    influence: xr.Dataset, groups: Mapping[str, list[int]], settings: AuditSettings, estimator: str
) -> dict[str, np.ndarray]:
    """Harm from the scores of each module, which are of the settings' aggregation and queries."""
    check_covered(influence, estimator, sorted({m for positions in groups.values() for m in positions}))
    sums = direction(settings.aggregate) * influence["score"].sel(estimator=estimator).values
    count = int(counted_queries(stored_queries(influence), settings.counted).sum())
    rows = row_count(influence)
    return {g: -combine(sums[ms], settings.aggregate, count, rows) for g, ms in groups.items()}
