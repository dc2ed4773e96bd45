"""What influence costs beside touching each sample once.

Times the influence stage (gradients of all LoRA modules and the head, TracIn, Cosine and DataInf) against a
plain batched forward and backward pass over the same samples, alternating, in one process.

    python benchmarks/overhead.py --data GLUE_FOLDER [--samples 4500 --queries 436 --repeats 3]
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import bundled_minilm, glue, table, write_section
from undertow.data import Encoded, encode, pad_batch, token_budget_batches
from undertow.gradients.collect import TOKEN_BUDGET, collect_gradients
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.names import ESTIMATOR_NAMES
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.loading import load_model, resolve_model
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.training.lora import attach_lora


def plain_pass(model: nn.Module, encoded: Encoded, pad_id: int) -> None:
    """Forward and backward over all samples, in the same batches, with gradients of the LoRA weights and head."""
    for positions in token_budget_batches(encoded.lengths, TOKEN_BUDGET):
        batch = {name: torch.from_numpy(a) for name, a in pad_batch(encoded, positions, pad_id).items()}
        loss = nn.functional.cross_entropy(model(**batch).logits, torch.from_numpy(encoded.labels[positions]))
        loss.backward()
        model.zero_grad()


def influence_stage(
    model: nn.Module, modules: tuple[TrackedModule, ...], samples: Encoded, queries: Encoded, pad_id: int
) -> dict[str, float]:
    """The whole stage; seconds of its two parts."""
    keys = [t.key for t in modules]
    start = time.perf_counter()
    stores = []
    for encoded in (queries, samples):
        store = GradientStore(keys, len(encoded))
        collect_gradients(model, modules, encoded, store, pad_id=pad_id)
        stores.append(store)
    collected = time.perf_counter()
    frame = influence_dataset(ESTIMATOR_NAMES, keys, np.arange(len(queries)), np.arange(len(samples)))
    compute_influence(stores[0], stores[1], ESTIMATOR_NAMES, InfluenceWriter(frame))
    return {"gradients": collected - start, "estimators": time.perf_counter() - collected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.jsonl and validation.jsonl")
    parser.add_argument("--samples", type=int, default=4500)
    parser.add_argument("--queries", type=int, default=436)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'overhead' is replaced")
    options = parser.parse_args()
    train, validation = glue(options.data, "sst2")
    loaded = load_model(resolve_model(str(bundled_minilm())), train.classes)
    model = attach_lora(loaded.model, rank=4, alpha=4.0, dropout=0.05).eval()
    samples = encode(train.select(np.arange(options.samples)), loaded.tokenizer, 128)
    queries = encode(validation.select(np.arange(options.queries)), loaded.tokenizer, 128)
    pad_id, modules = loaded.tokenizer.pad_token_id, tracked_modules(model)
    plain_pass(model, queries, pad_id)  # warm up
    rows = []
    for repeat in range(options.repeats):
        start = time.perf_counter()
        for encoded in (queries, samples):
            plain_pass(model, encoded, pad_id)
        plain = time.perf_counter() - start
        parts = influence_stage(model, modules, samples, queries, pad_id)
        rows.append((plain, parts["gradients"], parts["estimators"], sum(parts.values()) / plain))
        print(
            f"repeat {repeat + 1}: plain {plain:.1f} s, influence {sum(parts.values()):.1f} s, ratio {rows[-1][-1]:.2f}"
        )
    lines = [
        (name, *(f"{f(column):.2f}" for f in (statistics.median, min, max)))
        for name, column in zip(
            ("plain forward + backward, s", "gradients, s", "three estimators, s", "influence stage / plain"),
            zip(*rows, strict=True),
            strict=True,
        )
    ]
    text = table(("", "median", "lowest", "highest"), lines)
    head = (
        f"MiniLM-L6 with LoRA, {options.samples:,} + {options.queries} samples of SST-2, {len(modules)} modules, "
        f"{options.repeats} alternating repeats, 2-core CPU, float32:\n\n"
    )
    print("\n" + head + text)
    if options.write:
        write_section(options.write, "overhead", head + text)


if __name__ == "__main__":
    main()
