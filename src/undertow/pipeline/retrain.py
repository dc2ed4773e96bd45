"""Does removing rows help? Fine-tune again from the same start, and compare on the same rows."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import nn

from undertow.data import Samples
from undertow.metrics.accuracy import accuracy, accuracy_difference
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.results import ArmResult
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, fine_tune_step, predict_step
from undertow.progress import Reporter

AS_GIVEN = "as given"


def removals(
    removed: Bool[np.ndarray, " n"], planted: Bool[np.ndarray, " n"] | None, *, seed: int
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which rows each arm leaves out: none; the removed, if any; with planted noise just those, and random ones."""
    arms = {AS_GIVEN: np.zeros_like(removed)}
    if removed.any():
        arms["cleaned"] = removed
    if planted is not None:
        arms["oracle"] = planted
    if planted is not None and removed.any():
        random = np.zeros_like(removed)
        random[np.random.default_rng(seed).choice(len(removed), int(removed.sum()), replace=False)] = True
        arms["random removal"] = random
    return arms


def compare_arms(
    run: RunFolder,
    start: Start,
    inputs: Inputs,
    arms: dict[str, Bool[np.ndarray, " n"]],
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
        arms: name to rows left out.
        settings: hyperparameters, the same for all arms.
        reporter: shows progress.
        audited: the audited model where the audit itself trained it from the same start on the same rows,
            so that "as given" need not be trained twice.
    """
    evaluation = inputs.evaluation
    correct = {}
    for name, removed in arms.items():
        stage = f"retrain: {name}"
        if not run.done(stage):
            with run.stage(stage) as outputs:
                train = inputs.train.select(np.flatnonzero(~removed))
                model = audited if name == AS_GIVEN and audited is not None else None
                if model is None:
                    folder = run.path / "checkpoints" / name.replace(" ", "-")
                    model = fine_tune_step(
                        start, train, inputs.selection, settings, folder=folder, name=stage, reporter=reporter
                    ).model
                predicted = predict_step(
                    model, start.tokenizer, evaluation, settings, name=f"evaluate: {name}", reporter=reporter
                )
                _keep_predictions(run.path / "heldout.parquet", evaluation, name, predicted)
                outputs["rows"] = len(train)
        predictions = pd.read_parquet(run.path / "heldout.parquet")
        correct[name] = (predictions[name] == predictions["label"]).to_numpy()
    rows = {name: int(run.outputs(f"retrain: {name}")["rows"]) for name in arms}
    return tuple(_result(name, rows[name], correct[name], correct[AS_GIVEN]) for name in arms)


def _result(name: str, rows: int, correct: Bool[np.ndarray, " m"], given: Bool[np.ndarray, " m"]) -> ArmResult:
    share, change = accuracy(correct), accuracy_difference(correct, given)
    return ArmResult(
        name=name,
        rows=rows,
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
