"""From the influence tensor to the harm table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from undertow.aggregation.cut import flag, harm_ranks
from undertow.aggregation.jobs import combine
from undertow.aggregation.queries import counted_queries
from undertow.aggregation.rows import direction
from undertow.data import Planted, Samples
from undertow.influence.store import check_covered, covered_groups, deciding_modules, module_keys
from undertow.models.groups import available_groups
from undertow.pipeline.calibrated import Calibrated
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
    calibrated: Calibrated | None = None,
    reporter: Reporter | None = None,
) -> pd.DataFrame:
    """One row per training sample, in the order of the samples.

    Columns: row, text, text_pair (where there is one), label, predicted_label, predicted_probability,
    suggested_label (most probable other label of a flagged row), loss, harm (higher = worse), rank
    (1 = most harmful), flagged (to be looked through), removed (left out of the cleaned set), harm_<group> for each
    layer group, and baseline_<name> for each baseline; with planted noise also planted and original_label.
    ``calibrated`` says the harm of each row, how many are flagged and removed, and the label to suggest for each, where
    the audit was calibrated; else all flagged rows are removed.

    Raises:
        ConfigError: when the settings' layers select no module.
    """
    keys = module_keys(influence)
    covered = influence["covered"].sel(estimator=settings.estimators[0]).values
    groups = covered_groups(available_groups(keys), covered)
    groups[""] = deciding_modules(keys, covered, settings.layers)
    harm = group_harm(influence, groups, settings, reporter=reporter)
    own = harm.pop("")
    probabilities = influence["sample_probability"].values
    if calibrated is None:
        chosen, suggested = own, likeliest_other(probabilities, train.labels)[0]
    else:
        chosen, suggested = calibrated.harm, calibrated.suggested
    ranks = harm_ranks(chosen, seed=settings.seed)
    cut = DEFAULT_CUT if settings.cut is None else settings.cut
    flagged = flag(ranks, cut) if calibrated is None else ranks <= calibrated.flagged
    table = {
        "row": train.rows,
        "text": train.texts,
        **({"text_pair": train.text_pairs} if train.text_pairs else {}),
        **_labels(probabilities, train, flagged, suggested),
        "loss": influence["sample_loss"].values,
        "harm": chosen,
        "rank": ranks,
        "flagged": flagged,
        "removed": flagged if calibrated is None else ranks <= calibrated.removed,
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


def likeliest_other(
    probabilities: Float[np.ndarray, "n class"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The most probable label of each row other than its own, and its part of the probability of all others."""
    rows = np.arange(len(labels))
    others = probabilities.astype(np.float64)
    others[rows, labels] = -1  # below a probability of 0: never the label itself
    found = others.argmax(axis=1)
    others[rows, labels] = 0
    return found, others[rows, found] / np.maximum(others.sum(axis=1), 1e-12)


def _labels(probabilities: np.ndarray, train: Samples, flagged: np.ndarray, suggested: np.ndarray) -> dict[str, object]:
    names = np.array(train.classes, dtype=object)
    predicted = probabilities.argmax(1)
    return {
        "label": train.label_names,
        "predicted_label": names[predicted],
        "predicted_probability": probabilities.max(1),
        "suggested_label": np.where(flagged, names[suggested], None),
    }
