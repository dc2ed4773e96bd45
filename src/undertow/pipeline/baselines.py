"""Harm by baselines beside the audit's own, from what the influence stage has at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from undertow.baselines.dawid_skene import check_annotated
from undertow.baselines.evidence import Evidence
from undertow.baselines.names import BASELINE_NEEDS, needing_baselines
from undertow.data import Encoded, Samples
from undertow.errors import ConfigError, DataError
from undertow.gradients.collect import Predictions
from undertow.gradients.hidden import hidden_states
from undertow.gradients.layouts import Layout
from undertow.gradients.store import GradientStore
from undertow.progress import Reporter, Stopwatch


def baseline_harms(
    names: Sequence[str],
    model: nn.Module,
    stores: tuple[GradientStore, GradientStore],
    encoded: tuple[Encoded, Encoded],
    predictions: tuple[Predictions, Predictions],
    *,
    pad_id: int,
    seed: int,
    annotators: tuple[np.ndarray, np.ndarray] | None = None,
    margins: np.ndarray | None,
    canaries: np.ndarray | None = None,
    rows: int | None = None,
    memory: int,
    show: Reporter,
    spent: Stopwatch,
) -> xr.Dataset:
    """``baseline[baseline, sample]``: harm of every sample by each baseline; empty without names.

    Hidden states are those of the last layer, averaged over the tokens; gradients are those of all modules that
    are held dense, which are LoRA and head of a model with an adapter.

    Args:
        names: baselines, see `undertow.baselines.names`.
        model: the audited model.
        stores: gradients of queries and of samples.
        encoded: queries and samples.
        predictions: of queries and of samples.
        pad_id: token that pads.
        seed: for baselines that draw.
        annotators: a number for each sample's text, and for who or what labelled it; None where that is not known.
        margins: margins of the samples during training, [epochs, n], as `training_margins` gives them.
        canaries: positions of the samples that stand once more behind the rows, with another label.
        rows: the first so many samples are the user's; behind them stand canaries, then anchors. All by default.
        memory: bytes that dense gradients may take.
        show: shows progress.
        spent: takes the seconds of each baseline, and of the hidden states that several share.

    Raises:
        ConfigError: when a baseline needs more memory than there is.
        DataError: when the data does not allow a baseline.
    """
    if not names:
        return xr.Dataset()
    needs = {need for name in names for need in BASELINE_NEEDS[name]}
    queries, samples = encoded
    found: dict[str, Any] = {
        "labels": np.asarray(samples.labels),
        "query_labels": np.asarray(queries.labels),
        "loss": predictions[1].loss,
        "probabilities": predictions[1].probabilities,
        "margins": margins,
        "texts": None if annotators is None else annotators[0],
        "annotators": None if annotators is None else annotators[1],
        "seed": seed,
    }
    if "hidden" in needs:
        with spent.on("hidden states"):
            found["query_states"] = _states(model, queries, "hidden states of the queries", pad_id, show)
            found["states"] = _states(model, samples, "hidden states of the samples", pad_id, show)
    if "gradients" in needs:
        found["query_gradients"], found["gradients"] = (_dense(store, memory) for store in stores)
    evidence = Evidence(**found)
    with show.track("baselines", len(names)) as advance:
        harms = []
        for name in names:
            with spent.on(name):
                harms.append(_harm(name, evidence, canaries, rows))
            advance(1)
    return xr.Dataset(
        {"baseline_harm": (("baseline", "sample"), np.stack(harms))}, {"baseline": np.array(names, dtype=str)}
    )


def _harm(name: str, evidence: Evidence, canaries: np.ndarray | None, rows: int | None) -> np.ndarray:
    """Harm of every sample: rows among themselves, canaries in place of their rows, anchors beside the rows."""
    from undertow.baselines.registry import baseline_harm

    n = evidence.samples if rows is None else rows
    given = np.arange(n)
    if n == evidence.samples:
        return baseline_harm(name, evidence)
    found = [baseline_harm(name, evidence.take(given))]
    spies = np.empty(0, dtype=np.int64) if canaries is None else canaries
    if len(spies):
        taught = given.copy()
        taught[spies] = n + np.arange(len(spies))
        found.append(baseline_harm(name, evidence.take(taught))[spies])
    anchors = np.arange(n + len(spies), evidence.samples)
    if len(anchors):
        found.append(baseline_harm(name, evidence.take(np.concatenate([given, anchors])))[n:])
    return np.concatenate(found)


def check_followed(names: Sequence[str], *, trained_here: bool) -> None:
    """Make sure that baselines which follow a training have one to follow.

    Raises:
        ConfigError: names those that do not.
    """
    follows = needing_baselines(names, "dynamics")
    if follows and not trained_here:
        raise ConfigError(
            f"The baseline {follows[0]} reads the margins of each row during fine-tuning, and this model is not "
            f"fine-tuned here. Pass --finetune always, or leave out {' and '.join(follows)}."
        )


def annotations(names: Sequence[str], samples: Samples) -> tuple[np.ndarray, np.ndarray] | None:
    """A number for the text and one for the source of each sample, where a baseline reads them; else None.

    Raises:
        DataError: when there is no column of sources, or no text has several labels.
    """
    asking = needing_baselines(names, "annotators")
    if not asking:
        return None
    if samples.sources is None:
        raise DataError(
            f"The baseline {asking[0]} compares annotators, and no column names who labelled a row. Name it with "
            "--source-column, or leave this baseline out."
        )
    found = samples.text_numbers(), np.unique(np.array(samples.sources), return_inverse=True)[1]
    check_annotated(*found)
    return found


def training_margins(names: Sequence[str], file: Path | None, samples: int) -> np.ndarray | None:
    """Margins of the samples during training, [epochs, n], where a baseline reads them; None where none does.

    Raises:
        ConfigError: when there are none, or they are of other samples.
    """
    if not needing_baselines(names, "dynamics"):
        return None
    check_followed(names, trained_here=file is not None)
    assert file is not None
    try:
        margins: np.ndarray = np.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}, which fine-tuning left with the margins of each row, cannot be read ({error}). Leave out "
            f"{' and '.join(needing_baselines(names, 'dynamics'))}, or start a new run."
        ) from error
    if margins.shape[1] != samples:
        raise ConfigError(
            f"{file} holds margins of {margins.shape[1]:,} rows, and there are {samples:,}. Audit the rows that the "
            "model was fine-tuned on."
        )
    return margins


def check_room(names: Sequence[str], layouts: Sequence[Layout], samples: int, memory: int) -> None:
    """Make sure that the dense gradients which baselines look at fit into memory.

    Raises:
        ConfigError: when they take more than ``memory`` bytes, or none are held dense.
    """
    if needing_baselines(names, "gradients"):
        _dense_modules(layouts, samples, memory)


def _states(model: nn.Module, encoded: Encoded, name: str, pad_id: int, show: Reporter) -> np.ndarray:
    with show.track(name, len(encoded)) as advance:
        found = hidden_states(model, encoded, pad_id=pad_id, layers=[-1], pooling=["mean"], advance=advance)
    assert found.mean is not None
    states: np.ndarray = found.mean[0]
    return states


def _dense(store: GradientStore, memory: int) -> np.ndarray:
    modules = _dense_modules(store.layouts, store.samples, memory)
    rows = slice(0, store.samples)
    values: np.ndarray = torch.cat([store[m].rows(rows).float() for m in modules], dim=1).numpy()
    return values


def _dense_modules(layouts: Sequence[Layout], samples: int, memory: int) -> list[int]:
    modules = [m for m, layout in enumerate(layouts) if layout.form == "dense"]
    taken = 4 * samples * sum(layouts[m].size for m in modules)
    if not modules or taken > memory:
        raise ConfigError(
            f"The baseline outlier looks at dense gradients, which take {taken / 1e9:.1f} GB here in {len(modules)} "
            f"modules; the budget is {memory / 1e9:.1f} GB. Pass --project 8, a larger --memory, or leave it out."
        )
    return modules
