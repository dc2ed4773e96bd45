"""The harm table: one row per training sample."""

import numpy as np
import pandas as pd
import xarray as xr

from undertow.aggregation.cut import flag, harm_ranks
from undertow.controls.transitions import likeliest_other
from undertow.data import Planted, Samples
from undertow.influence.store import covered_groups, deciding_modules, module_keys
from undertow.models.groups import available_groups
from undertow.pipeline.controls.columns import control_columns
from undertow.pipeline.controls.stage import Controlled
from undertow.pipeline.harm import group_harm
from undertow.pipeline.settings import DEFAULT_CUT, AuditSettings
from undertow.progress import Reporter


def harm_table(
    influence: xr.Dataset,
    train: Samples,
    settings: AuditSettings,
    *,
    controlled: Controlled | None = None,
    reporter: Reporter | None = None,
) -> pd.DataFrame:
    """One row per training sample, in the order of the samples.

    Columns: row, text, text_pair and source (where there are any), label, predicted_label, predicted_probability,
    suggested_label (most probable other label of a flagged row), loss, harm (higher = worse), rank
    (1 = most harmful), flagged (to be looked through), removed (left out of the cleaned set), harm_<group> for each
    layer group, and baseline_<name> for each baseline. ``controlled`` says the harm of each row, how many are flagged
    and removed, and the label to suggest for each, where there are control rows, and adds the columns of
    `undertow.pipeline.controls.columns.control_columns`; else all flagged rows are removed.

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
    if controlled is None:
        chosen, suggested = own, likeliest_other(probabilities, train.labels)[0]
    else:
        chosen, suggested = controlled.harm, controlled.suggested
    ranks = harm_ranks(chosen, seed=settings.seed)
    cut = DEFAULT_CUT if settings.cut is None else settings.cut
    flagged = flag(ranks, cut) if controlled is None else ranks <= controlled.flagged
    table = {
        "row": train.rows,
        "text": train.texts,
        **({"text_pair": train.text_pairs} if train.text_pairs else {}),
        **({"source": train.sources} if train.sources else {}),
        **_labels(probabilities, train, flagged, suggested),
        "loss": influence["sample_loss"].values,
        "harm": chosen,
        "rank": ranks,
        "flagged": flagged,
        "removed": flagged if controlled is None else ranks <= controlled.removed,
        **{f"harm_{g}": values for g, values in harm.items()},
        **_baselines(influence),
    }
    if controlled is not None:
        table |= control_columns(controlled, influence, train, flagged, settings.estimators[0])
    return pd.DataFrame(table)


def with_truth(harm: pd.DataFrame, planted: Planted | None, classes: tuple[str, ...]) -> pd.DataFrame:
    """The harm table with what was planted: the columns planted and original_label, where noise was planted."""
    if planted is None:
        return harm
    original = [classes[i] for i in planted.original_labels]
    return harm.assign(planted=planted.planted, original_label=original)


def _baselines(influence: xr.Dataset) -> dict[str, np.ndarray]:
    if "baseline_harm" not in influence:
        return {}
    names = influence["baseline"].values.tolist()
    return {f"baseline_{name}": influence["baseline_harm"].sel(baseline=name).values for name in names}


def _labels(probabilities: np.ndarray, train: Samples, flagged: np.ndarray, suggested: np.ndarray) -> dict[str, object]:
    names = np.array(train.classes, dtype=object)
    predicted = probabilities.argmax(1)
    return {
        "label": train.label_names,
        "predicted_label": names[predicted],
        "predicted_probability": probabilities.max(1),
        "suggested_label": np.where(flagged, names[suggested], None),
    }
