"""Retraining on random subsets, which the linear datamodeling score measures attributions by."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from undertow.data import Samples, encode
from undertow.errors import ConfigError, RunFolderError
from undertow.gradients.collect import predict
from undertow.models.loading import weights_fingerprint
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, device_of, fine_tune_step
from undertow.progress import Reporter
from undertow.training.config import FinetuneConfig

MANIFEST = "subsets.json"


def random_subsets(samples: int, count: int, *, share: float = 0.5, seed: int = 0) -> Bool[np.ndarray, "s n"]:
    """Masks of random subsets of ``share`` of the samples, rounded to whole ones, drawn without replacement.

    The first subsets are the same however many are asked for.

    Raises:
        ConfigError: when a subset would hold no sample or all of them, or there is no subset.
    """
    size = round(share * samples)
    if not 0 < size < samples or count < 1:
        raise ConfigError(
            f"{count} subsets of {share:g} of {samples} samples are not accepted: one subset at least, each with some "
            "of the samples and not all. A share of 0.5 is usual."
        )
    masks = np.zeros((count, samples), dtype=bool)
    for subset, mask in enumerate(masks):
        mask[np.random.default_rng([seed, subset]).permutation(samples)[:size]] = True
    return masks


def retrained_losses(
    start: Start,
    train: Samples,
    selection: Samples,
    queries: Samples,
    settings: AuditSettings,
    masks: Bool[np.ndarray, "s n"],
    *,
    folder: Path,
    reporter: Reporter | None = None,
) -> Float[np.ndarray, "s q"]:
    """Loss on each query after fine-tuning on each subset, from the same start with the same hyperparameters.

    Each subset leaves a file in ``folder``; the same call goes on after those that are there, and in the middle of
    a fine-tuning from its last epoch.

    Args:
        start: the common start.
        train: the samples that subsets are drawn from.
        selection: selects the epoch, of every fine-tuning.
        queries: samples whose losses are measured.
        settings: hyperparameters, maximum length and device.
        masks: which samples each subset holds.
        folder: where the losses are kept.
        reporter: shows progress.

    Raises:
        TrainingError: when a fine-tuning diverges.
        RunFolderError: when ``folder`` holds those of other data, another start or other settings.
    """
    _check_folder(folder, _identity(start, (train, selection, queries), settings))
    losses = np.empty((len(masks), len(queries)))
    encoded = encode(queries, start.tokenizer, settings.max_length)
    for subset, mask in enumerate(masks):
        path = folder / f"{hashlib.sha256(mask.tobytes()).hexdigest()[:16]}.npy"
        if not path.is_file():
            part, name = train.select(np.flatnonzero(mask)), f"subset {subset + 1} of {len(masks)}"
            checkpoints = folder / f"checkpoints-{path.stem}"
            tuned = fine_tune_step(start, part, selection, settings, folder=checkpoints, name=name, reporter=reporter)
            model = tuned.model.to(device_of(settings))
            _save(path, predict(model, encoded, pad_id=start.tokenizer.pad_token_id).loss)
        losses[subset] = np.load(path)
    return losses


def _save(path: Path, loss: Float[np.ndarray, " q"]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, loss)
    temporary.replace(path)


def _identity(start: Start, sides: tuple[Samples, Samples, Samples], settings: AuditSettings) -> dict[str, Any]:
    """What a loss depends on beside its subset."""
    text = hashlib.sha256()
    for side in sides:
        encoded = encode(side, start.tokenizer, settings.max_length)
        text.update(json.dumps([encoded.input_ids, encoded.token_type_ids, encoded.labels.tolist()]).encode())
    names = (*FinetuneConfig.model_fields, "max_length")
    return {
        "start": weights_fingerprint(start.make()),
        "data": text.hexdigest(),
        **{name: value for name, value in settings.model_dump(mode="json").items() if name in names},
    }


def _check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    manifest = folder / MANIFEST
    if manifest.is_file():
        held = json.loads(manifest.read_text())
        other = [name for name in wanted if held.get(name) != wanted[name]]
        if other:
            raise RunFolderError(
                f"{folder} holds losses of subsets of another {', '.join(other)}. Give another folder, or the same "
                "data, start and settings to go on."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RunFolderError(f"{folder} holds files that are not losses of subsets. Give a new or empty folder.")
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(wanted))
    temporary.replace(manifest)
