"""Training again without the rows that a choice removes, each set of rows once."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from torch import nn

from undertow.aggregation.cut import flag, harm_ranks
from undertow.data import Samples
from undertow.metrics.accuracy import classification_table
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.stages import Cost, measured
from undertow.pipeline.steps import Start, fine_tune_step, predict_step
from undertow.pipeline.whole import whole
from undertow.progress import Reporter
from undertow.study.cells import VERSIONS, Cell
from undertow.study.config import Retraining
from undertow.study.measuring import Choice

RETRAINED = "retrained"
# Columns of a result, and the rows of the classification table that they are.
MEASURES = {"accuracy": "accuracy", "f1": "F1 macro", "matthews": "Matthews"}
Mask = Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Removal:
    """Rows that are left out of a training.

    Attributes:
        choice: what removes them; a choice of kind "control" for noisy, oracle and random.
        cut: share of the rows removed.
        rows: which.
    """

    choice: Choice
    cut: float
    rows: Mask


def removals(cell: Cell, found: dict[Choice, Float[np.ndarray, " n"]], planted: Mask) -> list[Removal]:
    """What is trained again in a cell: the controls, and every choice that the study acts on, at every cut.

    Controls: noisy removes nothing; oracle exactly the planted rows; random as many rows as each cut, seeded.
    """
    wanted = acting(cell)
    if wanted is None:
        return []
    made = [Removal(Choice("control", "noisy"), 0.0, np.zeros_like(planted))]
    if planted.any() and not planted.all():
        made.append(Removal(Choice("control", "oracle"), float(planted.mean()), planted))
    for cut in cell.study.cuts:
        random = np.zeros_like(planted)
        count = round(cut * len(planted))
        random[np.random.default_rng([cell.seed, count]).choice(len(planted), count, replace=False)] = True
        made.append(Removal(Choice("control", "random"), cut, random))
        for choice, harm in found.items():
            if wanted(choice):
                made.append(Removal(choice, cut, flag(harm_ranks(harm, seed=cell.seed), cut)))
    return made


def acting(cell: Cell) -> Callable[[Choice], bool] | None:
    """Which choices are acted on; None where nothing is trained again."""
    asked = cell.study.retrain
    if asked is False:
        return None
    if asked is True:
        return lambda choice: choice.kind == "influence"
    assert isinstance(asked, Retraining)
    if asked.seeds and cell.seed not in asked.seeds:
        return None

    def wanted(choice: Choice) -> bool:
        if choice.kind == "baseline":
            return choice.estimator in asked.baselines or "all" in asked.baselines
        named = (
            (asked.estimators, choice.estimator),
            (asked.layers, choice.layers),
            (asked.aggregations, choice.aggregation),
            (asked.only, choice.only),
        )
        return all(not names or name in names for names, name in named)

    return wanted


def retrained(
    folder: Path,
    removal: Removal,
    start: Start,
    sides: tuple[Samples, Samples, Samples],
    settings: AuditSettings,
    reporter: Reporter,
    *,
    audited: nn.Module | None = None,
) -> dict[str, float]:
    """Accuracy, macro F1 and Matthews of the model trained without some rows; read back if they were removed before.

    Args:
        folder: of the cell.
        removal: the rows.
        start: the same start for all.
        sides: training, selection and test rows.
        settings: hyperparameters.
        reporter: shows progress.
        audited: the model that was trained on all rows, for the removal of none.

    Raises:
        TrainingError: when the training diverges.
    """
    path = result_file(folder, removal.rows)
    if path.is_file():
        kept = json.loads(path.read_text())
        return {name: float(kept[name]) for name in MEASURES}
    with measured() as cost:
        result = _trained(path, removal, start, sides, settings, reporter, audited)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(json.dumps({**result, **asdict(cost)}))
    return result


def _trained(
    path: Path,
    removal: Removal,
    start: Start,
    sides: tuple[Samples, Samples, Samples],
    settings: AuditSettings,
    reporter: Reporter,
    audited: nn.Module | None,
) -> dict[str, float]:
    train, selection, test = sides
    model = audited
    if model is None or removal.rows.any():
        part = train.select(np.flatnonzero(~removal.rows))
        checkpoints = path.with_suffix(".checkpoints")
        name = f"without {int(removal.rows.sum()):,} rows"
        model = fine_tune_step(start, part, selection, settings, folder=checkpoints, name=name, reporter=reporter).model
    predicted = predict_step(model, start.tokenizer, test, settings, name="accuracy", reporter=reporter)
    table = classification_table(predicted, test.labels, times=1)["value"]
    return {name: float(table[row]) for name, row in MEASURES.items()}


def retraining_cost(folder: Path, made: Sequence[Removal]) -> Cost:
    """What the trainings without some rows took together, and the highest memory of one; of those that are kept."""
    files = [result_file(folder, removal.rows) for removal in distinct(list(made))]
    told = [json.loads(file.read_text()) for file in files if file.is_file()]
    seconds, peaks = ([one.get(name, 0.0) for one in told] for name in ("seconds", "peak_memory_mb"))
    return Cost(sum(seconds), max(peaks, default=0.0))


def result_file(folder: Path, rows: Mask) -> Path:
    """Where the result of removing these rows is kept."""
    name = hashlib.sha256(np.packbits(rows).tobytes() + str(len(rows)).encode()).hexdigest()[:16]
    return folder / f"{RETRAINED}-{VERSIONS['retraining']}" / f"{name}.json"


def distinct(made: list[Removal]) -> Iterator[Removal]:
    """One removal for each set of rows."""
    seen = set()
    for removal in made:
        key = removal.rows.tobytes()
        if key not in seen:
            seen.add(key)
            yield removal
