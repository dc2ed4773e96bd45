"""Which estimator, layers and aggregation find planted noise, beside the loss baseline.

Flips a share of the training labels of a GLUE task, fine-tunes LoRA, computes influence once, and scores every
estimator x layer group x aggregation by NDR@30: the share of the flips among the 30% most harmful samples
(random order: 0.30). The run is kept and resumed under --runs.

    python benchmarks/quality.py --data GLUE_FOLDER [--task sst2 --samples 4500 --epochs 10 --seed 0]
"""

import argparse
from pathlib import Path

import numpy as np

from common import bundled_minilm, glue, table, write_section
from undertow.data import stratified_subset
from undertow.influence.names import ESTIMATOR_NAMES
from undertow.metrics.noise import noise_detection
from undertow.models.groups import available_groups
from undertow.pipeline.audit import audit
from undertow.pipeline.outcome import Audit
from undertow.pipeline.scorer import Scorer, Scoring
from undertow.pipeline.settings import AuditSettings

GROUPS = ("all", "attention", "att1", "att2", "att3", "att4", "query", "value", "lora_A", "lora_B", "head")
AGGREGATIONS = tuple(
    (f"{label}{'-c' if correct else ''}", how, k, correct)
    for label, how, k in (
        ("mean", "mean", 0.3),
        ("rank", "rank", 0.3),
        ("vote20", "vote", 0.2),
        ("vote30", "vote", 0.3),
    )
    for correct in (False, True)
)


def run_audit(options: argparse.Namespace) -> Audit:
    """Fine-tune on noisy labels and compute the tensor, by the paper's protocol."""
    train, validation = glue(options.data, options.task)
    settings = AuditSettings(
        estimators=ESTIMATOR_NAMES, plant=options.noise, epochs=options.epochs, seed=options.seed, finetune="always"
    )
    model = options.model or bundled_minilm()
    out = options.runs / f"{Path(model).stem}-{options.task}-{options.samples}-{options.epochs}-{options.seed}"
    subset = stratified_subset(train, options.samples, seed=options.seed)
    trusted = stratified_subset(validation, 1000, seed=options.seed)
    return audit(model, subset, trusted, out=out, settings=settings)


def scores(result: Audit, estimator: str) -> dict[tuple[str, str], float]:
    """NDR@30 of every layer group x aggregation for one estimator."""
    scorer = Scorer(result.influence)
    planted = result.harm["planted"].to_numpy(bool)
    groups = available_groups(scorer.keys, GROUPS)
    asked = {
        (group, label): Scoring(estimator, tuple(members), how, k, ("correct",) if only else ("all",))
        for label, how, k, only in AGGREGATIONS
        for group, members in groups.items()
    }
    found = scorer.scores(list(asked.values()))
    return {name: noise_detection(s.harm, planted).ndr(0.3) for name, s in zip(asked, found, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/train.jsonl and validation.jsonl")
    parser.add_argument("--model", help="default: the bundled MiniLM encoder")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--samples", type=int, default=4500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'quality' is replaced")
    options = parser.parse_args()
    result = run_audit(options)
    loss = next(d for d in result.results.detections if d.name == "loss")
    labels = [a[0] for a in AGGREGATIONS]
    rows = []
    for estimator in ESTIMATOR_NAMES:
        found = scores(result, estimator)
        for group in dict.fromkeys(g for g, _ in found):
            rows.append((f"{estimator}, {group}", *(f"{found[group, label]:.3f}" for label in labels)))
    planted = result.harm["planted"].to_numpy(bool)
    head = (
        f"{Path(options.model or 'MiniLM-L6').stem}, {options.task}, {result.results.training_rows:,} samples, "
        f"{planted.mean():.0%} of the labels flipped, {options.epochs} epochs, seed {options.seed}, "
        f"{result.results.query_rows} queries; query accuracy {result.results.query_accuracy:.3f}. "
        f"**Loss baseline: NDR@30 {loss.ndr30:.3f}**, AUC-NDR {loss.auc:.3f}. Random order: 0.300. "
        "`-c`: only queries that the model predicts correctly.\n\n"
    )
    text = table(("NDR@30", *labels), rows)
    print("\n" + head + text)
    best = max(((float(v), f"{r[0]}, {label}") for r in rows for label, v in zip(labels, r[1:], strict=True)))
    print(f"best: {best[1]} {best[0]:.3f}; spread {np.ptp([float(v) for r in rows for v in r[1:]]):.3f}")
    if options.write:
        write_section(options.write, "quality", head + text)


if __name__ == "__main__":
    main()
