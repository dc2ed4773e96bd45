"""Linear datamodeling score: does influence foretell the losses of models trained on other subsets?

Flips a share of the labels of a GLUE task, fine-tunes MiniLM once and computes the influence by every estimator; then
fine-tunes it again on random halves of the samples and measures the loss on each query. The score is the Spearman
correlation over the halves of minus that loss and of the sum of the influences of the half's samples, averaged over
the queries. Every subset is kept under --runs, and the same command goes on.

    python benchmarks/lds.py --data GLUE_FOLDER [--samples 400 --queries 100 --subsets 40 --seeds 2 --epochs 4]

With several seeds each half is trained as often, the losses are averaged, and the agreement of the seeds is told: what
they disagree on, no attribution can foretell.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console

from common import bundled_minilm, glue, table, write_section
from undertow.data import Samples, plant_noise, stratified_subset
from undertow.influence.names import ESTIMATOR_NAMES
from undertow.influence.store import module_keys, open_influence
from undertow.metrics.lds import datamodeling_score
from undertow.metrics.proxies import spearman
from undertow.models.groups import available_groups
from undertow.models.loading import load_model, resolve_model
from undertow.pipeline.influence import Places, influence_step
from undertow.pipeline.lds import random_subsets, retrained_losses
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, fine_tune_step, start_from
from undertow.progress import Bars

GROUPS = ("all", "att1", "att2", "att3", "att4", "head", "embedding")


def start_of(classes: tuple[str, ...], settings: AuditSettings) -> Start:
    source = resolve_model(str(bundled_minilm()))
    tokenizer = load_model(source, classes).tokenizer
    return start_from(lambda: load_model(source, classes).model, tokenizer, settings)


def influence(
    folder: Path, train: Samples, selection: Samples, queries: Samples, settings: AuditSettings, show: Bars
) -> xr.Dataset:
    """Of one model trained on all samples, by every estimator."""
    tensor = folder / "influence.zarr"
    if (tensor / ".zmetadata").is_file():  # written last
        return open_influence(tensor)
    start, recorded = start_of(train.classes, settings), folder / "recorded"
    tuned = fine_tune_step(
        start, train, selection, settings, folder=folder / "checkpoints", record=recorded, reporter=show
    )
    places = Places(tensor, scratch=folder / "scratch", recorded=recorded)
    return influence_step(tuned.model, start.tokenizer, train, queries, settings, places=places, reporter=show)


def scores(dataset: xr.Dataset, masks: np.ndarray, outputs: np.ndarray) -> list[tuple[str, ...]]:
    """Rows of the table: each estimator on each layer group that it is defined on."""
    groups, rows = available_groups(module_keys(dataset), GROUPS), []
    for estimator in dataset["estimator"].values.tolist():
        values = dataset["influence"].sel(estimator=estimator).values
        covered, told = dataset["covered"].sel(estimator=estimator).values, []
        for name in GROUPS:
            chosen = [m for m in groups[name] if covered[m]]
            if not chosen:
                told.append("")
                continue
            attribution = values[chosen].sum(axis=0, dtype=np.float64)
            mean = datamodeling_score(attribution, masks, outputs, times=1000 if name == "all" else 1).mean
            told.append(f"{mean.value:.3f}" + (f" ({mean.low:.3f} to {mean.high:.3f})" if name == "all" else ""))
        rows.append((estimator, *told))
    return rows


def ceiling(losses: list[np.ndarray]) -> float:
    """Mean over the queries of the correlation over subsets of the losses of the first two seeds."""
    return float(np.mean([spearman(a, b) for a, b in zip(losses[0].T, losses[1].T, strict=True)]))


def chance(dataset: xr.Dataset, masks: np.ndarray, outputs: np.ndarray, orders: int = 200) -> float:
    """Size that the score of the first estimator stays below in 95% of the random orders of the samples."""
    first = dataset["covered"][0].values & dataset["trained"].values
    attribution = dataset["influence"][0].values[first].sum(axis=0, dtype=np.float64)
    drawn = [np.random.default_rng(i).permutation(attribution.shape[1]) for i in range(orders)]
    found = [datamodeling_score(attribution[:, order], masks, outputs, times=1).mean.value for order in drawn]
    return float(np.quantile(np.abs(found), 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--subsets", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--estimators", default=",".join(ESTIMATOR_NAMES))
    parser.add_argument("--runs", type=Path, default=Path("runs/lds"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section lds is replaced")
    options = parser.parse_args()

    source, validation = glue(options.data, options.task)
    train = plant_noise(stratified_subset(source, options.samples, seed=0), options.noise, seed=0).samples
    order = np.random.default_rng(0).permutation(len(validation))
    queries, selection = (validation.select(np.sort(p)) for p in np.split(order, [options.queries])[:2])
    selection = stratified_subset(selection, 200, seed=0)
    estimators = tuple(options.estimators.split(","))
    settings = AuditSettings(estimators=estimators, epochs=options.epochs, learning_rate=options.learning_rate)
    show, sizes = Bars(Console(stderr=True)), (options.samples, options.queries, options.epochs, options.noise)
    folder = options.runs / "-".join(map(str, (options.task, *sizes, options.learning_rate)))
    dataset = influence(folder, train, selection, queries, settings, show)
    masks, losses = random_subsets(len(train), options.subsets, share=options.share), []
    for seed in range(options.seeds):
        seeded = settings.model_copy(update={"seed": seed})
        start, place = start_of(train.classes, seeded), folder / f"subsets-{seed}"
        losses.append(retrained_losses(start, train, selection, queries, seeded, masks, folder=place, reporter=show))
    outputs = -np.mean(losses, axis=0)
    rows = scores(dataset, masks, outputs)
    agree = f"; the losses of two seeds correlate at {ceiling(losses):.3f}" if len(losses) > 1 else ""
    text = (
        f"MiniLM-L6 with LoRA, {options.task}, {len(train)} samples with {options.noise:.0%} of the labels flipped, "
        f"{len(queries)} queries, {options.epochs} epochs at {options.learning_rate:g}; {options.subsets} subsets of "
        f"{options.share:.0%}, each trained with {options.seeds} seed{'s' * (options.seeds > 1)}{agree}. In brackets "
        "the 95% interval over queries and subsets. Attributions in random order stay "
        f"within ±{chance(dataset, masks, outputs):.3f} in 95 of 100 orders.\n\n"
    ) + table(("LDS", *GROUPS), rows)
    print("\n" + text)
    if options.write:
        write_section(options.write, "lds", text)


if __name__ == "__main__":
    main()
