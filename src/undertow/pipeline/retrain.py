"""Which remedy helps? Fine-tune again from the same start with each, and compare on the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import nn

from undertow.data import Samples
from undertow.metrics.accuracy import accuracy, accuracy_difference
from undertow.pipeline.actions import AS_GIVEN, DROPPED, RELABELLED, WEIGHTED, relabelled_rows
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.results import ArmResult
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, fine_tune_step, predict_step
from undertow.progress import Reporter

# What each remedy is called once it was carried out.
DONE = {"drop": DROPPED, "relabel": RELABELLED, "weight": WEIGHTED}
RANDOM, ORACLE, ORACLE_LABELS = "random removal", "oracle", "oracle labels"


@dataclass(frozen=True)
class Arm:
    """What one model of the comparison is trained on.

    Attributes:
        train: the rows.
        changed: how many rows were left out, got another label, or a weight below 1.
        weights: what each row counts; None for the same.
    """

    train: Samples
    changed: int = 0
    weights: Float[np.ndarray, " n"] | None = None


def arm_names(settings: AuditSettings, planted: bool) -> tuple[str, ...]:
    """Arms that may be trained: as given, the remedies, random removal, and with planted noise the oracles."""
    remedies = [DONE[name] for name in settings.retrain]
    chance = [RANDOM] if "drop" in settings.retrain else []
    return (AS_GIVEN, *remedies, *chance, *((ORACLE, ORACLE_LABELS) if planted else ()))


def arms_of(harm: pd.DataFrame, inputs: Inputs, settings: AuditSettings) -> tuple[dict[str, Arm], tuple[str, ...]]:
    """The arms of a comparison by name, and why some are not trained.

    Args:
        harm: the harm table.
        inputs: the data.
        settings: which remedies.
    """
    train, found, notes = inputs.train, {AS_GIVEN: Arm(inputs.train)}, []
    for name in arm_names(settings, inputs.planted is not None)[1:]:
        arm = _ARMS[name](harm, inputs, settings.seed)
        if arm is None:
            unknown = name in (RELABELLED, WEIGHTED) and "wrong" not in harm
            why = "needs the probabilities of an audit with control rows" if unknown else "is that as given"
            notes.append(f"The training set {name!r} {why}, so no model is trained on it.")
        elif len(np.unique(arm.train.labels)) < len(np.unique(train.labels)):
            notes.append(f"The training set {name!r} lacks a whole class, so no model is trained on it.")
        else:
            found[name] = arm
    return found, tuple(notes)


def _without(rows: Samples, left_out: Bool[np.ndarray, " n"]) -> Arm | None:
    return Arm(rows.select(np.flatnonzero(~left_out)), int(left_out.sum())) if left_out.any() else None


def _dropped(harm: pd.DataFrame, inputs: Inputs, _seed: int) -> Arm | None:
    return _without(inputs.train, harm["removed"].to_numpy(bool))


def _random(harm: pd.DataFrame, inputs: Inputs, seed: int) -> Arm | None:
    removed = np.zeros(len(harm), dtype=bool)
    count = int(harm["removed"].sum())
    removed[np.random.default_rng(seed).choice(len(harm), count, replace=False)] = True
    return _without(inputs.train, removed)


def _relabelled(harm: pd.DataFrame, inputs: Inputs, _seed: int) -> Arm | None:
    chosen, place = relabelled_rows(inputs.train, harm), {name: i for i, name in enumerate(inputs.train.classes)}
    labels = inputs.train.labels.copy()
    labels[chosen] = [place[name] for name in harm.loc[chosen, "suggested_label"]]
    return Arm(inputs.train.with_labels(labels), int(chosen.sum())) if chosen.any() else None


def _weighted(harm: pd.DataFrame, inputs: Inputs, _seed: int) -> Arm | None:
    if "wrong" not in harm or not harm["wrong"].any() or (harm["wrong"] == 1).all():
        return None
    return Arm(inputs.train, int((harm["wrong"] > 0).sum()), 1 - harm["wrong"].to_numpy())


def _oracle(_harm: pd.DataFrame, inputs: Inputs, _seed: int) -> Arm | None:
    return None if inputs.planted is None else _without(inputs.train, inputs.planted.planted)


def _oracle_labels(_harm: pd.DataFrame, inputs: Inputs, _seed: int) -> Arm | None:
    if inputs.planted is None or not inputs.planted.planted.any():
        return None
    return Arm(inputs.train.with_labels(inputs.planted.original_labels), int(inputs.planted.planted.sum()))


_ARMS: dict[str, Callable[[pd.DataFrame, Inputs, int], Arm | None]] = {
    DROPPED: _dropped,
    RELABELLED: _relabelled,
    WEIGHTED: _weighted,
    RANDOM: _random,
    ORACLE: _oracle,
    ORACLE_LABELS: _oracle_labels,
}


def best_remedy(arms: Sequence[ArmResult]) -> str:
    """The remedy of the largest gain among those that surely help, else "as given".

    Several are compared with "as given" on the same rows, so each interval is widened (Bonferroni) before it counts.
    """
    from scipy.stats import norm

    tried = [arm for arm in arms if arm.name in DONE.values()]
    wider = norm.ppf(1 - 0.025 / max(len(tried), 1)) / norm.ppf(0.975)
    sure = [a for a in tried if a.difference - wider * (a.difference - a.difference_low) > 0]
    return max(sure, key=lambda arm: arm.difference).name if sure else AS_GIVEN


def compare_arms(
    run: RunFolder,
    start: Start,
    inputs: Inputs,
    arms: dict[str, Arm],
    settings: AuditSettings,
    reporter: Reporter,
    *,
    audited: nn.Module | None,
) -> tuple[ArmResult, ...]:
    """Fine-tune and evaluate each arm as a stage of its own; finished arms are read back.

    Args:
        run: where stages are recorded; predictions go to ``heldout.parquet``.
        start: the common start.
        inputs: the data.
        arms: by name, as `arms_of` gives them.
        settings: hyperparameters, the same for all arms.
        reporter: shows progress.
        audited: the audited model where the audit itself trained it from the same start on the same rows,
            so that "as given" need not be trained twice.
    """
    evaluation = inputs.evaluation
    correct = {}
    for name, arm in arms.items():
        stage = f"retrain: {name}"
        if not run.done(stage):
            with run.stage(stage) as outputs:
                model = audited if name == AS_GIVEN and audited is not None else None
                if model is None:
                    folder = run.path / "checkpoints" / name.replace(" ", "-")
                    model = fine_tune_step(
                        start,
                        arm.train,
                        inputs.selection,
                        settings,
                        folder=folder,
                        name=stage,
                        weights=arm.weights,
                        reporter=reporter,
                    ).model
                predicted = predict_step(
                    model, start.tokenizer, evaluation, settings, name=f"evaluate: {name}", reporter=reporter
                )
                _keep_predictions(run.path / "heldout.parquet", evaluation, name, predicted)
                outputs.update(rows=len(arm.train), changed=arm.changed)
        predictions = pd.read_parquet(run.path / "heldout.parquet")
        correct[name] = (predictions[name] == predictions["label"]).to_numpy()
    counts = {name: run.outputs(f"retrain: {name}") for name in arms}
    return tuple(
        _result(name, int(counts[name]["rows"]), int(counts[name]["changed"]), correct[name], correct[AS_GIVEN])
        for name in arms
    )


def _result(
    name: str, rows: int, changed: int, correct: Bool[np.ndarray, " m"], given: Bool[np.ndarray, " m"]
) -> ArmResult:
    share, change = accuracy(correct), accuracy_difference(correct, given)
    return ArmResult(
        name=name,
        rows=rows,
        changed=changed,
        accuracy=share.value,
        low=share.low,
        high=share.high,
        difference=change.value,
        difference_low=change.low,
        difference_high=change.high,
    )


def _keep_predictions(path: Path, evaluation: Samples, arm: str, predicted: np.ndarray) -> None:
    if path.is_file():
        table = pd.read_parquet(path)
    else:
        table = pd.DataFrame({"row": evaluation.rows, "label": evaluation.label_names})
    table[arm] = [evaluation.classes[i] for i in predicted]
    temporary = path.with_suffix(".tmp")
    table.to_parquet(temporary, index=False)
    temporary.replace(path)
