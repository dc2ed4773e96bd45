"""Where the influence goes while it is computed, and whether it may go on from what is there."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from undertow.aggregation.queries import Queries, query_weights
from undertow.aggregation.rows import direction, module_sum, transform
from undertow.data import Encoded
from undertow.influence.compute import BLOCK
from undertow.influence.scores import ScoreWriter
from undertow.influence.store import InfluenceWriter, module_keys, row_count
from undertow.models.groups import available_groups
from undertow.pipeline.settings import AuditSettings
from undertow.training.checkpoints import Recorded

# Attribute of a store that says what it was made of.
FINGERPRINT = "fingerprint"


def open_writer(
    frame: xr.Dataset, path: Path | None, settings: AuditSettings, queries: Queries, sample_labels: np.ndarray
) -> InfluenceWriter | ScoreWriter:
    """What takes the influence, as ``settings.keep`` says; it goes on with a store of the same fingerprint."""
    resume = path is not None and _held(path) == frame.attrs[FINGERPRINT]
    if settings.keep == "tensor":
        chunk = max(1, BLOCK // max(frame.sizes["sample"], 1))
        return InfluenceWriter(frame, path, query_chunk=chunk, resume=resume)
    weights = query_weights(queries, sample_labels, frame.sizes["sample"], settings.counted, settings.weigh)
    rows = row_count(frame)
    what, sign = transform(settings.aggregate, settings.k, rows), direction(settings.aggregate)

    def reduce(block: np.ndarray, which: slice) -> np.ndarray:
        return sign * module_sum(block, what, weights.whole[:, which], weights.sample_class, rows)

    groups = available_groups(module_keys(frame)) if settings.keep == "groups" else None
    return ScoreWriter(frame, path, reduce, groups, resume=resume)


def fingerprint(
    frame: xr.Dataset, settings: AuditSettings, weights: str, sides: Sequence[Encoded], records: Sequence[Recorded]
) -> str:
    """Hash of all that the influence depends on: settings, weights, texts, labels and the recorded training."""
    text = hashlib.sha256(settings.model_dump_json().encode() + weights.encode())
    text.update(json.dumps([[r.step, r.mean_learning_rate] for r in records]).encode())
    for name in ("module", "query", "sample", "control"):
        text.update(json.dumps(frame[name].values.tolist()).encode())
    for side in sides:
        types = side.token_type_ids or [[]] * len(side)
        for ids, kinds, label in zip(side.input_ids, types, side.labels.tolist(), strict=True):
            text.update(np.asarray([len(ids), label, *ids, *kinds], dtype=np.int64).tobytes())
    return text.hexdigest()


def _held(tensor: Path) -> str | None:
    """Fingerprint of what a store holds."""
    try:
        held: str | None = json.loads((tensor / ".zattrs").read_text()).get(FINGERPRINT)
    except (OSError, ValueError):
        return None
    return held
