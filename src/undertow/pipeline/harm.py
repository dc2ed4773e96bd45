"""From the influence tensor to the harm table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from undertow.aggregation.cut import flag, harm_ranks
from undertow.aggregation.jobs import combine
from undertow.aggregation.queries import counted_queries
from undertow.aggregation.rows import direction
from undertow.data import Planted, Samples
from undertow.influence.store import check_covered, covered_groups, deciding_modules, module_keys
from undertow.models.groups import available_groups
from undertow.pipeline.scorer import Scorer, Scoring, memory_bytes, stored_queries
from undertow.pipeline.settings import DEFAULT_CUT, AuditSettings
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
    return {g: -combine(sums[ms], settings.aggregate, count) for g, ms in groups.items()}


def harm_table(
    influence: xr.Dataset,
    train: Samples,
    settings: AuditSettings,
    *,
    planted: Planted | None = None,
    calibrated: tuple[np.ndarray, int, np.ndarray] | None = None,
    reporter: Reporter | None = None,
) -> pd.DataFrame:
    """One row per training sample, in the order of the samples.

    Columns: row, text, text_pair (where there is one), label, predicted_label, predicted_probability,
    suggested_label (most probable other label of a flagged row), loss, harm (higher = worse), rank
    (1 = most harmful), flagged, harm_<group> for each layer group, and baseline_<name> for each baseline; with planted
    noise also planted and original_label. ``calibrated`` is the harm of each row, how many are flagged, and the class
    index of the label to suggest for each, where calibration says so.

    Raises:
        ConfigError: when the settings' layers select no module.
    """
    keys = module_keys(influence)
    covered = influence["covered"].sel(estimator=settings.estimators[0]).values
    groups = covered_groups(available_groups(keys), covered)
    groups[""] = deciding_modules(keys, covered, settings.layers)
    harm = group_harm(influence, groups, settings, reporter=reporter)
    own = harm.pop("")
    chosen, suggested = (own, None) if calibrated is None else (calibrated[0], calibrated[2])
    ranks = harm_ranks(chosen, seed=settings.seed)
    cut = DEFAULT_CUT if settings.cut is None else settings.cut
    flagged = flag(ranks, cut) if calibrated is None else ranks <= calibrated[1]
    table = {
        "row": train.rows,
        "text": train.texts,
        **({"text_pair": train.text_pairs} if train.text_pairs else {}),
        **_labels(influence["sample_probability"].values, train, flagged, suggested),
        "loss": influence["sample_loss"].values,
        "harm": chosen,
        "rank": ranks,
        "flagged": flagged,
        **{f"harm_{g}": values for g, values in harm.items()},
        **_baselines(influence),
    }
    if planted is not None:
        table["planted"] = planted.planted
        table["original_label"] = [train.classes[i] for i in planted.original_labels]
    return pd.DataFrame(table)


def _baselines(influence: xr.Dataset) -> dict[str, np.ndarray]:
    if "baseline_harm" not in influence:
        return {}
    names = influence["baseline"].values.tolist()
    return {f"baseline_{name}": influence["baseline_harm"].sel(baseline=name).values for name in names}


def _labels(
    probabilities: np.ndarray, train: Samples, flagged: np.ndarray, suggested: np.ndarray | None
) -> dict[str, object]:
    names = np.array(train.classes, dtype=object)
    predicted = probabilities.argmax(1)
    if suggested is None:
        others = probabilities.copy()
        others[np.arange(len(train)), train.labels] = -1
        suggested = others.argmax(1)
    return {
        "label": train.label_names,
        "predicted_label": names[predicted],
        "predicted_probability": probabilities.max(1),
        "suggested_label": np.where(flagged, names[suggested], None),
    }
