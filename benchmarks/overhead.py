"""What influence costs beside touching each sample once.

Times the influence stage (gradients of all LoRA modules, the head and the word embeddings; TracIn, Cosine and
DataInf on LoRA and head, TracIn-WE on the embeddings) against a plain batched forward and backward pass over the
same samples, alternating, in one process.

    python benchmarks/overhead.py --data GLUE_FOLDER [--model minilm --samples 4500 --queries 436 --repeats 3]
    python benchmarks/overhead.py --data GLUE_FOLDER --model smollm2 --samples 1000 --queries 200
"""

import argparse
import gc
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import adapted, glue, machine, table, write_section
from undertow.data import Encoded, encode, pad_batch, token_budget_batches
from undertow.gradients.collect import TOKEN_BUDGET, collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.pipeline.stages import measured

ESTIMATORS = ("tracin", "cosine", "datainf")


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
    """The whole stage; seconds of its parts."""
    start = time.perf_counter()
    layouts = plan_layouts(model, modules, samples, pad_id=pad_id)
    stores = []
    for encoded in (queries, samples):
        store = GradientStore(layouts, encoded)
        collect_gradients(model, modules, encoded, store, pad_id=pad_id)
        stores.append(store)
    collected = time.perf_counter()
    words = [m for m, t in enumerate(modules) if t.key.kind == "embedding"]
    others = [m for m in range(len(modules)) if m not in words]
    keys = [t.key for t in modules]
    frame = influence_dataset(ESTIMATORS, keys, np.arange(len(queries)), np.arange(len(samples)))
    writer = InfluenceWriter(frame)
    compute_influence(*stores, ESTIMATORS, writer, modules=others)
    estimated = time.perf_counter()
    compute_influence(*stores, ["tracin-we"], writer, modules=words)
    done = time.perf_counter()
    return {"gradients": collected - start, "estimators": estimated - collected, "embeddings": done - estimated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.jsonl and validation.jsonl")
    parser.add_argument("--model", choices=("minilm", "smollm2"), default="minilm")
    parser.add_argument("--samples", type=int, default=4500)
    parser.add_argument("--queries", type=int, default=436)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'overhead-MODEL' is replaced")
    options = parser.parse_args()
    train, validation = glue(options.data, "sst2")
    name, model, tokenizer = adapted(options.model, train.classes)
    samples = encode(train.select(np.arange(options.samples)), tokenizer, 128)
    queries = encode(validation.select(np.arange(options.queries)), tokenizer, 128)
    pad_id, modules = tokenizer.pad_token_id, tracked_modules(model)
    plain_pass(model, queries, pad_id)  # warm up
    rows, memory = [], []
    for repeat in range(options.repeats):
        gc.collect()
        with measured() as plain:
            for encoded in (queries, samples):
                plain_pass(model, encoded, pad_id)
        gc.collect()
        with measured() as stage:
            parts = influence_stage(model, modules, samples, queries, pad_id)
        rows.append((plain.seconds, *parts.values(), stage.seconds / plain.seconds))
        memory.append((stage.peak_memory_mb - plain.peak_memory_mb) / 1e3)
        told = f"plain {plain.seconds:.1f} s, influence {stage.seconds:.1f} s, ratio {rows[-1][-1]:.2f}"
        print(f"repeat {repeat + 1}: {told}", flush=True)
    names = (
        "plain forward + backward, s",
        "gradients, s",
        "TracIn, Cosine and DataInf, s",
        "TracIn-WE, s",
        "influence stage / plain",
    )
    columns = [*zip(*rows, strict=True), memory]
    lines = [
        (label, *(f"{f(column):.2f}" for f in (statistics.median, min, max)))
        for label, column in zip((*names, "peak memory above the plain pass, GB"), columns, strict=True)
    ]
    text = table(("", "median", "lowest", "highest"), lines)
    head = (
        f"{name} with LoRA, {options.samples:,} + {options.queries} samples of SST-2, {len(modules)} modules, "
        f"{options.repeats} alternating repeats, {machine()}, float32:\n\n"
    )
    print("\n" + head + text)
    if options.write:
        write_section(options.write, f"overhead-{options.model}", head + text)


if __name__ == "__main__":
    main()
