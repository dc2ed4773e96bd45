"""Which estimator, layers and aggregation find planted noise, on two models and five tasks, beside every baseline.

A cell is a model, a task and a seed. Each flips 20% of the training labels, fine-tunes LoRA, computes influence once,
and measures every estimator x layer group x aggregation and every baseline: NDR at 10, 20 and 30% (the share of the
flips among so many most harmful samples; random order: 0.10, 0.20, 0.30), AUC-NDR and AUROC.

    python benchmarks/quality.py --data GLUE_FOLDER --write docs/results.md
    python benchmarks/quality.py --data GLUE_FOLDER --models minilm --tasks sst2,cola --seeds 0
    python benchmarks/quality.py --tables-only --write docs/results.md

``--setting here`` (the default) is cut to what two cores compute in about an hour; ``--setting paper`` has the paper's
4,500 rows, 10 epochs and ten seeds. Cells run seed by seed, the smaller model first, so that a run that is stopped
leaves something to look at. What a cell measured stays under RUNS/measures, and an unfinished cell goes on where it
stopped; a cell that fails is reported at the end, with exit code 1. ``--write`` replaces the sections of a Markdown
file and writes the whole grid to results/quality.csv beside it.
"""

import argparse
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common import bundled_minilm, bundled_smollm2, glue
from quality_grid import ESTIMATORS, GROUPS, ways
from quality_tables import GRID, write_tables
from undertow.baselines.names import BASELINE_NAMES, needing_baselines
from undertow.data import Samples, split_validation, stratified_subset
from undertow.metrics.noise import auroc, detection_table, noise_detection
from undertow.models.groups import available_groups
from undertow.pipeline.audit import audit
from undertow.pipeline.outcome import Audit
from undertow.pipeline.scorer import Scorer, Scoring
from undertow.pipeline.settings import AuditSettings

# These data name no annotators.
BASELINES = tuple(b for b in BASELINE_NAMES if b not in needing_baselines(BASELINE_NAMES, "annotators"))
MODELS = {"minilm": bundled_minilm, "smollm2": bundled_smollm2}
TASKS = ("sst2", "cola", "mrpc", "qnli", "rte")
NOISE = 0.2
# What has an interval in every cell; an interval of each configuration would take longer than all else.
HEADLINES = (
    ("loss", "", ""),
    ("cosine", "all", "rank"),
    ("tracin", "all", "mean"),
    ("tracin", "head", "vote30"),
    ("datainf", "att4", "mean"),
)


@dataclass(frozen=True)
class Size:
    """Rows, epochs and tokens of a cell; ``validation`` is halved into checkpoint selection and queries."""

    samples: int = 4500
    queries: int = 500
    validation: int = 1000
    epochs: int = 10
    max_length: int = 128


PAPER = Size()
SHORT, LONG = ("sst2", "cola"), ("mrpc", "qnli", "rte")
# What SmolLM2 takes of the longer texts is cut: a batch is as long as its longest row.
HERE = {
    "minilm": {**dict.fromkeys(SHORT, Size(2000, 200, 1000, 8)), **dict.fromkeys(LONG, Size(1500, 200, 1000, 6))},
    "smollm2": {
        **dict.fromkeys(SHORT, Size(1000, 150, 300, 5)),
        **dict.fromkeys(LONG, Size(500, 100, 200, 4, max_length=80)),
        "rte": Size(500, 100, 200, 4, max_length=96),
    },
}


@dataclass(frozen=True)
class Cell:
    """A model, a task and a seed, in their size."""

    model: str
    task: str
    seed: int
    size: Size

    @property
    def name(self) -> str:
        s = self.size
        return (
            f"{self.model}-{self.task}-{s.samples}x{s.queries}-{s.validation}-{s.epochs}-{s.max_length}-seed{self.seed}"
        )


def parts(data: Path, cell: Cell) -> tuple[Samples, Samples, Samples]:
    """Training rows, rows that select the checkpoint, and queries, by the paper's protocol.

    RTE has few validation rows, so all of them serve as both.
    """
    size, seed = cell.size, cell.seed
    train, validation = glue(data, cell.task)
    trusted = stratified_subset(validation, size.validation, seed=seed)
    selection, queries = trusted, trusted
    if cell.task != "rte":
        halves = split_validation(trusted, seed=seed)
        selection, queries = halves.selection, halves.queries
    return (
        stratified_subset(train, size.samples, seed=seed),
        selection,
        stratified_subset(queries, size.queries, seed=seed),
    )


def run_audit(data: Path, cell: Cell, out: Path) -> Audit:
    """Fine-tune on noisy labels and compute the tensor."""
    train, selection, queries = parts(data, cell)
    settings = AuditSettings(
        estimators=ESTIMATORS,
        baselines=BASELINES,
        plant=NOISE,
        epochs=cell.size.epochs,
        learning_rate=1e-3 if cell.task == "rte" else 3e-4,
        max_length=cell.size.max_length,
        seed=cell.seed,
        finetune="always",
        calibrate=False,
        cancellation="none",
    )
    return audit(MODELS[cell.model](), train, selection, queries=queries, out=out, settings=settings, progress=False)


def harms(result: Audit) -> dict[tuple[str, str, str], np.ndarray]:
    """Harm by (estimator or baseline, layer group, aggregation); the last two are empty for baselines."""
    scorer = Scorer(result.influence)
    asked: dict[tuple[str, str, str], Scoring] = {}
    for estimator in scorer.estimators:
        covered = result.influence["covered"].sel(estimator=estimator).values
        for group, members in available_groups(scorer.keys, GROUPS).items():
            if not covered[members].all():
                continue
            for way in ways(estimator):
                asked[estimator, group, way.label] = Scoring(
                    estimator, tuple(members), way.how, way.k, way.only, way.weigh
                )
    found = {name: s.harm for name, s in zip(asked, scorer.scores(list(asked.values())), strict=True)}
    return {(b, "", ""): result.harm[f"baseline_{b}"].to_numpy(np.float64) for b in BASELINES} | found


def measures(harm: np.ndarray, planted: np.ndarray, *, interval: bool) -> dict[str, float]:
    """How well a harm finds what was planted; the ends of the interval of NDR@30 where it is asked for."""
    curve = noise_detection(harm, planted)
    rates = {f"NDR@{share}": curve.ndr(share / 100) for share in (10, 20, 30)}
    low, high = np.nan, np.nan
    if interval:
        low, high = detection_table(harm, planted, shares=(0.3,)).loc["NDR@30", ["low", "high"]]
    return {**rates, "AUC-NDR": curve.auc, "AUROC": auroc(harm, planted), "low": low, "high": high}


def measure(data: Path, cell: Cell, out: Path) -> pd.DataFrame:
    """One row for each configuration and baseline, with the facts of the cell beside it."""
    result = run_audit(data, cell, out)
    start = time.perf_counter()
    planted = result.harm["planted"].to_numpy(bool)
    rows = [
        dict(zip(GRID, name, strict=True)) | measures(harm, planted, interval=name in HEADLINES)
        for name, harm in harms(result).items()
    ]
    scoring, found = time.perf_counter() - start, result.results
    return pd.DataFrame(rows).assign(
        model=cell.model,
        task=cell.task,
        seed=cell.seed,
        samples=found.training_rows,
        planted=found.planted,
        selection=found.selection_rows,
        queries=found.query_rows,
        epochs=cell.size.epochs,
        max_length=cell.size.max_length,
        modules=found.modules,
        accuracy=found.query_accuracy,
        majority=float(np.bincount(result.influence["query_label"].values).max() / found.query_rows),
        seconds=scoring + sum(stage["seconds"] for stage in result.manifest["stages"].values()),
        scoring_seconds=scoring,
    )


def measured(options: argparse.Namespace, cell: Cell) -> bool:
    """Run a cell unless its measures are there; whether it went well."""
    kept, out = measures_file(options, cell), options.runs / cell.name
    if kept.is_file():
        print(f"{cell.name}: measured before", flush=True)
        return True
    start = time.perf_counter()
    try:
        table = measure(options.data, cell, out)
    except Exception as error:  # the other cells are worth having whatever happens in this one
        traceback.print_exc()
        print(f"{cell.name}: FAILED: {error}", flush=True)
        return False
    kept.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(temporary := kept.with_suffix(".tmp"), index=False)
    temporary.replace(kept)
    taken = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e9
    shutil.rmtree(out / "recorded", ignore_errors=True)
    if taken > options.keep_gb:
        shutil.rmtree(out)
    best = table[table["aggregation"] != ""].nlargest(1, "NDR@30").iloc[0]
    loss = table.set_index("estimator")["NDR@30"]["loss"]
    print(
        f"{cell.name}: {(time.perf_counter() - start) / 60:.1f} min ({table['scoring_seconds'][0]:.0f} s of them "
        f"scoring), {taken:.2f} GB, query accuracy {table['accuracy'][0]:.3f}, NDR@30 of the loss {loss:.3f}, of "
        f"{best['estimator']}, {best['layers']}, {best['aggregation']} {best['NDR@30']:.3f}",
        flush=True,
    )
    return True


def measures_file(options: argparse.Namespace, cell: Cell) -> Path:
    return options.runs / "measures" / f"{cell.name}.parquet"


def cells(options: argparse.Namespace) -> list[Cell]:
    """In the order in which they run: seed by seed, the models in the order of MODELS."""
    given = {
        name: value
        for name in ("samples", "queries", "validation", "epochs", "max_length")
        if (value := getattr(options, name)) is not None
    }
    seeds = options.seeds or (range(10) if options.setting == "paper" else range(2))
    return [
        Cell(model, task, seed, replace(PAPER if options.setting == "paper" else HERE[model][task], **given))
        for seed in seeds
        for model in (m for m in MODELS if m in options.models)
        for task in options.tasks
    ]


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Parses names joined by commas."""

    def parse(text: str) -> tuple[str, ...]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(known)}, joined by commas")
        return tuple(text.split(","))

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with TASK/train.jsonl and validation.jsonl")
    parser.add_argument("--setting", choices=("here", "paper"), default="here")
    parser.add_argument("--models", type=names(tuple(MODELS)), default=tuple(MODELS))
    parser.add_argument("--tasks", type=names(TASKS), default=TASKS)
    parser.add_argument("--seeds", type=lambda text: tuple(int(s) for s in text.split(",")), help="such as 0,1")
    for name in ("samples", "queries", "validation", "epochs", "max-length"):
        parser.add_argument(f"--{name}", type=int, help="instead of the setting's")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--keep-gb", type=float, default=1.0, help="a run folder above so many GB goes once measured")
    parser.add_argument("--tables-only", action="store_true", help="make the tables of what is measured already")
    parser.add_argument("--write", type=Path, help="Markdown file whose sections quality-* are replaced")
    options = parser.parse_args()
    if options.data is None and not options.tables_only:
        parser.error("--data is needed: a folder with TASK/train.jsonl and validation.jsonl")
    return options


def main() -> None:
    options = arguments()
    asked = cells(options)
    failed = [] if options.tables_only else [c.name for c in asked if not measured(options, c)]
    files = [f for c in asked if (f := measures_file(options, c)).is_file()]
    if not files:
        sys.exit(f"Nothing is measured under {options.runs / 'measures'} for these models, tasks, seeds and sizes.")
    write_tables(pd.concat([pd.read_parquet(f) for f in files], ignore_index=True), options.write)
    if failed:
        sys.exit(f"{len(failed)} of {len(asked)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
