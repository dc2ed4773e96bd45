"""Cancellation of every module and layer group, which the influence stage leaves beside the tensor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from undertow.gradients.cancellation import is_cheap, weight_sums
from undertow.gradients.store import GradientStore
from undertow.metrics.cancellation import WeightCancellation, cancellation, weight_cancellation
from undertow.models.groups import available_groups
from undertow.pipeline.whole import whole
from undertow.progress import Reporter, Silent

FILE = "cancellation.parquet"
Extent = Literal["auto", "all", "none"]

# Numbers (weights x samples) of large linear layers up to which "auto" takes them in: some seconds.
AFFORDABLE = 5_000_000_000
_FINGERPRINT = "fingerprint"


def keep_cancellation(
    store: GradientStore, tensor: Path | None, fingerprint: str, extent: Extent, reporter: Reporter | None = None
) -> None:
    """Write ``cancellation.parquet`` beside the influence tensor, unless it is there from the same gradients.

    Args:
        store: gradients of all training samples.
        tensor: where the influence tensor is; None writes nothing.
        fingerprint: says what the gradients depend on.
        extent: see `cancellation_table`; none writes nothing.
        reporter: shows progress.
    """
    if tensor is None or extent == "none":
        return
    path = tensor.with_name(FILE)
    if _held(path) == fingerprint:
        return
    table = cancellation_table(store, extent, reporter)
    table.attrs[_FINGERPRINT] = fingerprint
    with whole(path) as temporary:
        table.to_parquet(temporary, index=False)


def cancellation_table(
    store: GradientStore, extent: Literal["auto", "all"] = "auto", reporter: Reporter | None = None
) -> pd.DataFrame:
    """Cancellation of each module and of each standard layer group, from one pass over the gradients.

    Columns: level (module or group), name, layer (-1 outside the layers and for groups), modules (how many are
    counted), left_out (how many are not), why (factored, projected), and those of
    `undertow.metrics.cancellation.Cancellation`.

    A linear layer that is held by its factors takes a product for each sample. ``auto`` leaves all of them out
    where they have more than `AFFORDABLE` weights x samples; ``all`` takes them in. Gradients that were projected
    are not those of weights, and are always left out.
    """
    show = reporter or Silent()
    reasons = _reasons(store, extent)
    parts: dict[int, WeightCancellation] = {}
    chosen = [m for m, reason in enumerate(reasons) if not reason]
    with show.track("cancellation of the modules", len(chosen)) as advance:
        for m in chosen:
            sums = weight_sums(store[m])
            parts[m] = weight_cancellation(sums.absolute.numpy(), sums.signed.numpy(), untouched=sums.untouched)
            advance(1)
    if len(chosen) < len(reasons):
        why = " and ".join(sorted(set(filter(None, reasons))))
        told = "; --cancellation all takes in the factored ones" if "factored" in reasons else ""
        show.say(f"Cancellation leaves out {len(reasons) - len(chosen)} of {len(reasons)} modules ({why}{told}).")
    rows = [
        _row("module", key.name, [m], parts, reasons, layer=-1 if key.layer is None else key.layer)
        for m, key in enumerate(store.keys)
    ]
    rows += [_row("group", name, ms, parts, reasons) for name, ms in available_groups(store.keys).items()]
    return pd.DataFrame(rows)


def _row(
    level: str,
    name: str,
    modules: Sequence[int],
    parts: dict[int, WeightCancellation],
    reasons: Sequence[str],
    *,
    layer: int = -1,
) -> dict[str, Any]:
    counted = [parts[m] for m in modules if m in parts]
    return {
        "level": level,
        "name": name,
        "layer": layer,
        "modules": len(counted),
        "left_out": len(modules) - len(counted),
        "why": ", ".join(sorted({reasons[m] for m in modules if reasons[m]})),
        **cancellation(counted).row(),
    }


def _reasons(store: GradientStore, extent: str) -> list[str]:
    """Why each module is left out; empty for those that count."""
    costly = {m for m in range(len(store)) if not is_cheap(store[m])}
    work = store.samples * sum(store.layouts[m].size for m in costly)
    left = costly if extent != "all" and work > AFFORDABLE else set()
    projected = [layout.project is not None for layout in store.layouts]
    return ["projected" if projected[m] else "factored" if m in left else "" for m in range(len(store))]


def _held(path: Path) -> str | None:
    """Fingerprint of a table that is there."""
    try:
        held: str | None = pd.read_parquet(path, columns=["level"]).attrs.get(_FINGERPRINT)
    except (OSError, ValueError):
        return None
    return held
