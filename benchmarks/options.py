"""What each way to save time or space costs in rankings.

Trains MiniLM on SST-2 with 20% of the labels flipped, then computes harm (Cosine and DataInf, all trained modules,
Rank) with every option and compares: seconds relative to a plain forward and backward pass over the same samples,
Spearman correlation of harm with the exact one, and the difference in NDR@30.

    python benchmarks/options.py --data GLUE_FOLDER [--samples 1500 --queries 200 --epochs 4]

Three sections: ``options`` (below), ``projection`` (--project on the model's own linear layers) and ``inverse``
(how near DataInf and LiSSA come to the exact damped Gauss-Newton estimate).
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from scipy.stats import spearmanr
from torch import nn

from common import bundled_minilm, glue, table, write_section
from overhead import plain_pass
from undertow.aggregation.in_memory import aggregate
from undertow.data import Encoded, encode, plant_noise, token_budget_batches
from undertow.gradients import hooks
from undertow.gradients.collect import TOKEN_BUDGET, collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.influence.compute import compute_influence
from undertow.influence.products import inner
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.metrics.noise import noise_detection
from undertow.models.groups import select_modules
from undertow.models.loading import load_model
from undertow.models.modules import tracked_modules
from undertow.models.sources import resolve_model
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import fine_tune_step, start_from
from undertow.progress import Bars


class Bench:
    """A trained model with its samples and queries, and what the exact way gives."""

    def __init__(self, model: nn.Module, samples: Encoded, queries: Encoded, planted: np.ndarray, pad_id: int) -> None:
        self.model, self.samples, self.queries, self.planted, self.pad_id = model, samples, queries, planted, pad_id

    def plain(self) -> float:
        start = time.perf_counter()
        for side in (self.queries, self.samples):
            plain_pass(self.model, side, self.pad_id)
        return time.perf_counter() - start

    def stores(
        self, track: tuple[str, ...], layers: str | None, autocast: torch.dtype | None = None, **options: Any
    ) -> list[GradientStore]:
        dtype = options.pop("dtype", torch.float32)
        modules = tracked_modules(self.model, track)
        if layers:
            modules = tuple(modules[m] for m in select_modules([t.key for t in modules], layers))
        layouts, found = plan_layouts(self.model, modules, self.samples, pad_id=self.pad_id, **options), []
        for side in (self.queries, self.samples):
            found.append(GradientStore(layouts, side, dtype=dtype))
            collect_gradients(self.model, modules, side, found[-1], pad_id=self.pad_id, autocast=autocast)
        return found

    def harm(self, stores: list[GradientStore], estimator: str, layers: str = "all") -> np.ndarray:
        keys = stores[0].keys
        chosen = select_modules(keys, layers)
        frame = influence_dataset([estimator], keys, np.arange(len(self.queries)), np.arange(len(self.samples)))
        writer = InfluenceWriter(frame)
        compute_influence(*stores, [estimator], writer, modules=chosen)
        return -aggregate(np.asarray(writer._values)[0][chosen], "rank")


def trained(options: argparse.Namespace) -> Bench:
    train, validation = glue(options.data, "sst2")
    order = np.random.default_rng(0).permutation(len(train))
    planted = plant_noise(train.select(np.sort(order[: options.samples])), 0.2, seed=0)
    half = np.random.default_rng(0).permutation(len(validation))
    queries, selection = (validation.select(np.sort(p)) for p in (half[: options.queries], half[options.queries :]))
    source, settings = resolve_model(str(bundled_minilm())), AuditSettings(epochs=options.epochs)
    loaded = load_model(source, train.classes)
    start = start_from(lambda: load_model(source, train.classes).model, loaded.tokenizer, settings)
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune_step(
            start,
            planted.samples,
            selection,
            settings,
            folder=Path(folder),
            name="fine-tuning",
            reporter=Bars(Console(stderr=True)),
        )
    both = [encode(side, loaded.tokenizer, 128) for side in (planted.samples, queries)]
    return Bench(tuned.model, both[0], both[1], planted.planted, loaded.tokenizer.pad_token_id)


def compare_options(bench: Bench, slow: int) -> str:
    """Each option against the exact way, every time beside a plain pass."""
    default = ("auto",)
    exact = {e: bench.harm(bench.stores(default, None), e) for e in ("cosine", "datainf")}
    found = {e: noise_detection(h, bench.planted).ndr(0.3) for e, h in exact.items()}
    whole: dict[str, Any] = {"track": default, "layers": None}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("float32, LoRA, head and word embeddings (the default)", whole, "all"),
        ("deciding modules only, no embeddings (--fast)", {**whole, "layers": "all"}, "all"),
        ("last two layers and head (--fast --layers 4-5,head)", {**whole, "layers": "4-5,head"}, "4-5,head"),
        ("head only (--fast --layers head)", {**whole, "layers": "head"}, "head"),
        ("gradients kept in bfloat16", {**whole, "dtype": torch.bfloat16}, "all"),
        ("gradients kept in float16", {**whole, "dtype": torch.float16}, "all"),
        ("--project 16", {**whole, "project": 16}, "all"),
        ("every token of the last layer (not skipped)", whole, "all"),
    ]
    rows = []
    for label, how, layers in cases:
        with ExitStack() as stack:
            if "not skipped" in label:
                stack.enter_context(mock.patch.object(hooks, "first_token_module", return_value=None))
            before = bench.plain()
            start = time.perf_counter()
            stores = bench.stores(**how)
            seconds = time.perf_counter() - start
            after = bench.plain()
        held = sum(
            stored_bytes(s.layouts, e, s.dtype) for s, e in zip(stores, (bench.queries, bench.samples), strict=True)
        )
        rows.append(
            (
                label,
                f"{2 * seconds / (before + after):.2f}",
                f"{held / 1e6:.0f}",
                *rankings(bench, stores, layers, exact, found),
            )
        )
    rows.append(bfloat16(bench, slow))
    rows.append(compiled(bench, slow))
    padding = [padding_share(side) for side in (bench.samples, bench.queries)]
    ndr = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    head = (
        f"MiniLM-L6 with LoRA, {len(bench.samples):,} + {len(bench.queries)} samples of SST-2, 2-core CPU without "
        f"bfloat16 instructions. NDR@30 of the exact way: {ndr}. Padding is {padding[0]:.1%} of the tokens in "
        "length-sorted batches: the most that attention without padding could save.\n\n"
    )
    names = ("", "gradients / plain pass", "MB held", "Spearman, cosine", "NDR@30", "Spearman, datainf", "NDR@30")
    return head + table(names, rows)


def rankings(
    bench: Bench, stores: list[GradientStore], layers: str, exact: dict[str, np.ndarray], found: dict[str, float]
) -> list[str]:
    told = []
    for estimator, reference in exact.items():
        harm = bench.harm(stores, estimator, layers)
        change = noise_detection(harm, bench.planted).ndr(0.3) - found[estimator]
        told += [f"{spearmanr(harm, reference).statistic:.4f}", f"{change:+.3f}"]
    return told


def bfloat16(bench: Bench, slow: int) -> tuple[str, ...]:
    """On few samples: a CPU without the instructions emulates them."""
    some = Bench(
        bench.model,
        bench.samples.select(np.arange(slow)),
        bench.queries.select(np.arange(slow // 4)),
        bench.planted[:slow],
        bench.pad_id,
    )
    seconds, stores = [], []
    for autocast in (None, torch.bfloat16):
        start = time.perf_counter()
        stores.append(some.stores(("auto",), None, autocast))
        seconds.append(time.perf_counter() - start)
    told = []
    for estimator in ("cosine", "datainf"):
        harm = [some.harm(s, estimator) for s in stores]
        ndr = [noise_detection(h, some.planted).ndr(0.3) for h in harm]
        told += [f"{spearmanr(*harm).statistic:.4f}", f"{ndr[1] - ndr[0]:+.3f}"]
    return (f"--compute-dtype bfloat16 ({slow} samples)", f"{seconds[1] / seconds[0]:.2f}", "", *told)


def compiled(bench: Bench, slow: int) -> tuple[str, ...]:
    """torch.compile on the plain pass, the most it could gain: hooks would cut its graphs at every module."""
    some = bench.samples.select(np.arange(slow))
    plain_pass(bench.model, some, bench.pad_id)
    start = time.perf_counter()
    plain_pass(bench.model, some, bench.pad_id)
    eager = time.perf_counter() - start
    try:
        fast = torch.compile(bench.model, dynamic=True)
        plain_pass(fast, some, bench.pad_id)
        start = time.perf_counter()
        plain_pass(fast, some, bench.pad_id)
        told = f"{(time.perf_counter() - start) / eager:.2f}"
    except Exception as error:  # a compiler that is not there is a finding too
        told = f"failed: {type(error).__name__}"
    return (f"torch.compile of the plain pass, after compilation ({slow} samples)", told, "", "", "", "", "")


def padding_share(encoded: Encoded) -> float:
    batches = token_budget_batches(encoded.lengths, TOKEN_BUDGET)
    padded = sum(len(b) * int(encoded.lengths[b].max()) for b in batches)
    return 1 - float(encoded.lengths.sum()) / padded


def compare_projection(bench: Bench, samples: int) -> str:
    """--project on the frozen linear layers of the model: errors of inner products, norms and harm."""
    some = Bench(
        bench.model, bench.samples.select(np.arange(samples)), bench.queries, bench.planted[:samples], bench.pad_id
    )
    exact = some.stores(("linear",), None)
    modules = range(len(exact[0]))
    reference = some.harm(exact, "tracin", "re:."), some.harm(exact, "cosine", "re:.")
    dense = sum(k.size for k in exact[0].keys)
    rows = []
    for project in (4, 8, 16, 32):
        stores = some.stores(("linear",), None, project=project)
        errors = [relative_error(inner(stores[0][m], stores[1][m]), inner(exact[0][m], exact[1][m])) for m in modules]
        harms = some.harm(stores, "tracin", "re:."), some.harm(stores, "cosine", "re:.")
        held = stored_bytes(stores[0].layouts, some.samples, torch.float32) / samples
        told = [f"{spearmanr(h, r).statistic:.3f}" for h, r in zip(harms, reference, strict=True)]
        rows.append((str(project), f"{held / 1e3:.1f}", f"{np.median(errors):.3f}", *told))
    held = stored_bytes(exact[0].layouts, some.samples, torch.float32) / samples
    head = (
        f"{len(exact[0])} linear layers of MiniLM-L6, {dense:,} parameters ({4 * dense / 1e6:.0f} MB a sample dense, "
        f"{held / 1e3:.0f} kB by factors), {samples:,} × {len(some.queries)} samples. The error is the root mean "
        "square of what inner products differ by, relative to that of the products themselves, median over modules.\n\n"
    )
    names = (
        "--project",
        "kB a sample",
        "error of inner products",
        "Spearman of harm, TracIn",
        "Spearman of harm, Cosine",
    )
    return head + table(names, rows)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def compare_inverse(bench: Bench, samples: int) -> str:
    """DataInf and LiSSA beside the exact damped Gauss-Newton estimate."""
    some = Bench(
        bench.model, bench.samples.select(np.arange(samples)), bench.queries, bench.planted[:samples], bench.pad_id
    )
    stores = some.stores(("lora", "head"), None)
    exact = some.harm(stores, "exact")
    rows = []
    for estimator in ("exact", "datainf", "lissa", "tracin", "cosine"):
        start = time.perf_counter()
        harm = some.harm(stores, estimator)
        seconds = time.perf_counter() - start
        ndr = noise_detection(harm, some.planted).ndr(0.3)
        rows.append((estimator, f"{spearmanr(harm, exact).statistic:.3f}", f"{ndr:.3f}", f"{seconds:.1f}"))
    head = (
        f"MiniLM-L6 with LoRA, {samples:,} × {len(some.queries)} samples, {len(stores[0])} modules, Rank over all:\n\n"
    )
    return head + table(("estimator", "Spearman of harm with exact", "NDR@30", "seconds"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.jsonl and validation.jsonl")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--slow", type=int, default=64, help="samples for what is slow: bfloat16 and compilation")
    parser.add_argument("--some", type=int, default=500, help="samples for projection and inverse")
    parser.add_argument("--write", type=Path, help="Markdown file whose sections are replaced")
    options = parser.parse_args()
    bench = trained(options)
    bench.plain()  # warm up
    sections = {
        "inverse": compare_inverse(bench, options.some),
        "projection": compare_projection(bench, options.some),
        "options": compare_options(bench, options.slow),
    }
    for name, text in sections.items():
        print("\n" + text)
        if options.write:
            write_section(options.write, name, text)


if __name__ == "__main__":
    main()
