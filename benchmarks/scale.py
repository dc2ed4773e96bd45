"""How cost grows, and what a million samples take.

    python benchmarks/scale.py million [--samples 1000000 --queries 64 --modules 24 --size 1536]
    python benchmarks/scale.py slopes --data GLUE_FOLDER [--samples 500 --queries 100]

``million`` reads gradients from windows of one stream of random numbers, because no memory holds them, and aggregates
their TracIn by Vote with ``--keep scores``: the peak memory of the process is the figure. ``slopes`` times the
influence stage of MiniLM with 1, 2 and 4 times the samples, 1 and 4 times the queries, 1 and 4 times the modules.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import adapted, glue, machine, table, write_section
from undertow.aggregation.rows import module_sum, transform
from undertow.data import Encoded, encode
from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.matrices import DenseGradients, slices
from undertow.gradients.store import GradientStore
from undertow.influence.compute import compute_influence
from undertow.influence.scores import ScoreWriter
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule, tracked_modules
from undertow.pipeline.stages import measured

ESTIMATORS = ("tracin", "cosine", "datainf")


# Numbers between the windows of two blocks, and of two modules: odd, so that no gradient comes twice.
BETWEEN_BLOCKS, BETWEEN_MODULES = 10_007, 311


@dataclass(frozen=True)
class Windows(DenseGradients):
    """Gradients [n, size] that lie in a stream of random numbers: each block of ``step`` samples is a window of it.

    ``values`` only has their shape; it takes no memory.
    """

    stream: Tensor
    step: int
    module: int = 0

    def rows(self, which: slice) -> Tensor:
        parts = []
        for block in range(which.start // self.step, math.ceil(which.stop / self.step)):
            first = block * BETWEEN_BLOCKS + self.module * BETWEEN_MODULES
            window = self.stream[first : first + self.step * self.size].view(self.step, self.size)
            start, stop = max(which.start - block * self.step, 0), min(which.stop - block * self.step, self.step)
            parts.append(window[start:stop])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class GeneratedStore:
    """What `compute_influence` reads of a gradient store."""

    def __init__(self, keys: tuple[ModuleKey, ...], samples: int, size: int, seed: int) -> None:
        self.keys = keys
        self.step = slices(samples, size)[0].stop  # the rows that are read at once
        length = self.step * size + samples // self.step * BETWEEN_BLOCKS + len(keys) * BETWEEN_MODULES
        self.stream = torch.randn(length, generator=torch.Generator().manual_seed(seed))
        self.shape = torch.empty(1, 1).expand(samples, size)

    def __getitem__(self, module: int) -> Windows:
        return Windows(self.shape, self.stream, self.step, module)

    def __len__(self) -> int:
        return len(self.keys)


def million(options: argparse.Namespace) -> str:
    n, q, m, d = options.samples, options.queries, options.modules, options.size
    keys = tuple(ModuleKey(f"module {i}", i, "query", "lora_A", "attention", d) for i in range(m))
    start = time.perf_counter()
    with measured() as cost:
        queries, samples = GeneratedStore(keys, q, d, 1), GeneratedStore(keys, n, d, 2)
        frame = influence_dataset(["tracin"], keys, np.arange(q), np.arange(n))
        vote, alike = transform("vote", 0.3, n), np.zeros(n, dtype=np.int64)
        writer = ScoreWriter(frame, None, lambda block, _: module_sum(block, vote, np.ones((1, len(block))), alike))

        def tell(_: int) -> None:
            print(f"  {len(writer.written)} of {m} modules, {time.perf_counter() - start:.0f} s", flush=True)

        compute_influence(queries, samples, ["tracin"], writer, advance=tell)
        harm = -writer.finish(frame.drop_vars("covered"))["score"].values.sum((0, 1))
    assert np.isfinite(harm).all()
    assert len(np.unique(harm)) > n // 10
    head = f"One process, {torch.get_num_threads()} threads on a {machine()}, float32, k = 30%:\n\n"
    return head + table(
        (
            "samples × queries × modules × parameters",
            "seconds",
            "peak memory of the process, GB",
            "tensor it never held, GB",
        ),
        [
            (
                f"{n:,} × {q} × {m} × {d:,}",
                f"{cost.seconds:.0f}",
                f"{cost.peak_memory_mb / 1e3:.2f}",
                f"{4 * n * q * m / 1e9:.1f}",
            )
        ],
    )


def stage(
    model: torch.nn.Module, modules: Sequence[TrackedModule], queries: Encoded, samples: Encoded, pad_id: int
) -> tuple[float, float]:
    """Seconds for the gradients and for the estimators, of these the median of five."""
    start = time.perf_counter()
    layouts, stores = plan_layouts(model, modules, samples, pad_id=pad_id), []
    for encoded in (queries, samples):
        stores.append(GradientStore(layouts, encoded))
        collect_gradients(model, modules, encoded, stores[-1], pad_id=pad_id)
    gradients = time.perf_counter() - start
    frame = influence_dataset(ESTIMATORS, [t.key for t in modules], np.arange(len(queries)), np.arange(len(samples)))
    estimators = []
    for _ in range(5):
        start = time.perf_counter()
        compute_influence(*stores, ESTIMATORS, InfluenceWriter(frame))
        estimators.append(time.perf_counter() - start)
    return gradients, statistics.median(estimators)


def slopes(options: argparse.Namespace) -> str:
    train, validation = glue(options.data, "sst2")
    name, model, tokenizer = adapted("minilm", train.classes)
    lora = [t for t in tracked_modules(model) if t.key.kind == "attention"]
    modules = {1: lora[::4], 4: lora}
    n, q, pad_id = options.samples, options.queries, tokenizer.pad_token_id
    order = np.random.default_rng(0).permutation(len(train))
    samples = {f: encode(train.select(order[: f * n]), tokenizer, 128) for f in (1, 2, 4)}
    queries = {f: encode(validation.select(np.arange(f * q)), tokenizer, 128) for f in (1, 4)}
    runs = {
        "all as they are": (1, 1, 1),
        "samples × 2": (2, 1, 1),
        "samples × 4": (4, 1, 1),
        "queries × 4": (1, 4, 1),
        "modules × 4": (1, 1, 4),
        "samples, queries, modules × 4": (4, 4, 4),
    }
    stage(model, lora, queries[1], samples[1], pad_id)  # warm up
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in runs}
    for _ in range(options.repeats):
        for label, (fs, fq, fm) in runs.items():
            found[label].append(stage(model, modules[fm], queries[fq], samples[fs], pad_id))
    rows = []
    base = np.median(found["all as they are"], axis=0)
    tokens = samples[1].lengths.sum() + queries[1].lengths.sum()
    for label, times in found.items():
        gradients, estimators = np.median(times, axis=0)
        fs, fq, fm = runs[label]
        passed = (samples[fs].lengths.sum() + queries[fq].lengths.sum()) / tokens
        rows.append(
            (
                label,
                f"{passed:.2f}",
                f"{gradients:.2f}",
                f"{gradients / base[0]:.2f}",
                str(fs * fq * fm),
                f"{estimators * 1e3:.1f}",
                f"{estimators / base[1]:.2f}",
            )
        )
    head = (
        f"{name}, {n:,} samples × {q} queries × {len(modules[1])} LoRA modules as they are, {options.repeats} repeats, "
        f"medians, {machine()}, float32:\n\n"
    )
    names = ("", "tokens, relative", "gradients, s", "relative", "pairs × modules", "three estimators, ms", "relative")
    return head + table(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("million", "slopes"))
    parser.add_argument("--data", type=Path, help="folder with sst2/train.jsonl and validation.jsonl, for slopes")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--modules", type=int, default=24)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file whose section of that name is replaced")
    options = parser.parse_args()
    default = {"million": (1_000_000, 64), "slopes": (500, 100)}[options.what]
    options.samples, options.queries = options.samples or default[0], options.queries or default[1]
    if options.what == "slopes" and options.data is None:
        parser.error("slopes needs --data, a folder with one folder a GLUE task; undertow ships no data")
    text = million(options) if options.what == "million" else slopes(options)
    print("\n" + text)
    if options.write:
        write_section(options.write, options.what, text)


if __name__ == "__main__":
    main()
