"""What each way to save time or space costs in rankings.

Trains MiniLM on SST-2 with 20% of the labels flipped, then computes harm (Cosine and DataInf, all trained modules,
Rank) with every option and compares: seconds relative to a plain float32 forward and backward pass over the same
samples, right before and after; Spearman correlation of harm with the exact one; and the difference in NDR@30.

    python benchmarks/options.py --data GLUE_FOLDER [--section options --keep FOLDER]

Three sections: ``options`` (below), ``projection`` (--project on the model's own linear layers) and ``inverse``
(how near DataInf and LiSSA come to the exact damped Gauss-Newton estimate). With ``--keep`` the trained model stays in
a folder, so that each section may have a call of its own.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from common import machine, table, write_section
from exactness import compare_inverse, compare_projection
from trained import Bench, trained
from undertow.data import Encoded, token_budget_batches
from undertow.gradients import collect, hooks
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.metrics.noise import noise_detection
from undertow.models import kernels

ESTIMATORS = ("cosine", "datainf")
LAST = "4-5,head"
Around = Callable[[Bench], AbstractContextManager[Bench]]


@dataclass(frozen=True)
class Option:
    """A way to compute gradients: arguments of ``Bench.stores``, and what is open ``around`` it and gives the bench.

    ``layers`` are the modules that harm is of.
    """

    label: str
    how: dict[str, Any] = field(default_factory=dict)
    layers: str = "all"
    around: Around = nullcontext


@contextmanager
def every_token(bench: Bench) -> Iterator[Bench]:
    """The last layer computes every token, though the head reads the first alone."""
    with mock.patch.object(hooks, "first_token_module", return_value=None):
        yield bench


@contextmanager
def narrow_weights(bench: Bench) -> Iterator[Bench]:
    """The whole model is converted, so that sums and norms are computed in bfloat16 too."""
    yield replace(bench, model=copy.deepcopy(bench.model).bfloat16())


@contextmanager
def whole_backward(bench: Bench) -> Iterator[Bench]:
    """The backward pass goes down to the word embeddings, whatever is tracked."""
    words = bench.model.get_base_model().get_input_embeddings()
    handle = words.register_forward_hook(lambda _, __, output: output.requires_grad_(True))
    try:
        yield bench
    finally:
        handle.remove()


@contextmanager
def one_length(bench: Bench) -> Iterator[Bench]:
    """Batches of rows of one length alone: nothing is padded, attention included."""

    def cut(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
        same = [np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1]]
        return [s[b] for s in same for b in token_budget_batches(lengths[s], budget)]

    with mock.patch.object(collect, "token_budget_batches", cut):
        yield bench


@contextmanager
def own_products(bench: Bench) -> Iterator[Bench]:
    """Matrix products are those that torch chooses."""
    with mock.patch.object(kernels, "_HAS_KERNEL", False):
        yield bench


FAST = {"layers": "all"}
HALF = {"autocast": torch.bfloat16}
OPTIONS = (
    Option("float32; LoRA, head and word embeddings (the default)"),
    Option("matrix products by torch's own choice of kernel", around=own_products),
    Option("deciding modules alone, no word embeddings", FAST),
    Option("--compute-dtype bfloat16", HALF),
    Option("both (--fast where bfloat16 pays)", FAST | HALF),
    Option("the model's weights converted to bfloat16", around=narrow_weights),
    Option("gradients kept in bfloat16", {"dtype": torch.bfloat16}),
    Option("gradients kept in float16", {"dtype": torch.float16}),
    Option("computed and kept in bfloat16", HALF | {"dtype": torch.bfloat16}),
    Option("--project 16", {"project": 16}),
    Option("every token of the last layer (not skipped)", around=every_token),
    Option("nothing padded: batches of one length", around=one_length),
    Option(f"last two layers and head (--fast --layers {LAST})", {"layers": LAST}, LAST),
    Option("the same, backward pass not stopped at them", {"layers": LAST}, LAST, whole_backward),
    Option("head alone (--fast --layers head)", {"layers": "head"}, "head"),
)


def compare_options(bench: Bench, repeats: int) -> str:
    """Each option against the exact way, every time beside plain passes."""
    exact = bench.harms(bench.stores(), ESTIMATORS)
    found = {e: noise_detection(h, bench.planted).ndr(0.3) for e, h in exact.items()}
    times: dict[str, list[float]] = {option.label: [] for option in OPTIONS}
    told: dict[str, list[str]] = {}
    before = bench.plain()
    for repeat in range(repeats):
        for option in OPTIONS:
            with option.around(bench) as used:
                start = time.perf_counter()
                stores = used.stores(**option.how)
                seconds = time.perf_counter() - start
            after = bench.plain()
            times[option.label].append(2 * seconds / (before + after))
            before = after
            if option.label not in told:
                told[option.label] = [held(stores, bench), *rankings(bench, stores, option.layers, exact, found)]
            print(
                f"repeat {repeat + 1}: {option.label}: {times[option.label][-1]:.2f}, {told[option.label]}", flush=True
            )
    rows = [(label, f"{statistics.median(times[label]):.2f}", *told[label]) for label in times]
    rows += [(label, ratio, *[""] * 5) for label, ratio in compiled(bench)]
    names = ("", "gradients / plain pass", "MB held", "Spearman, cosine", "NDR@30", "Spearman, datainf", "NDR@30")
    return options_head(bench, repeats, found) + table(names, rows)


def options_head(bench: Bench, repeats: int, found: dict[str, float]) -> str:
    ndr = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    padding = [padding_share(side) for side in (bench.samples, bench.queries)]
    return (
        f"MiniLM-L6 with LoRA, {len(bench.samples):,} samples and {len(bench.queries)} queries of SST-2, {machine()}, "
        f"median of {repeats} alternating repeats. Spearman: of harm with that of the exact way on all trained "
        f"modules, whose NDR@30 is: {ndr}. Padding is {padding[0]:.1%} and {padding[1]:.1%} of the tokens in batches "
        "sorted by length: the most that attention without padding could save.\n\n"
    )


def held(stores: list[GradientStore], bench: Bench) -> str:
    sides = zip(stores, (bench.queries, bench.samples), strict=True)
    return f"{sum(stored_bytes(s.layouts, e, s.dtype) for s, e in sides) / 1e6:.0f}"


def rankings(
    bench: Bench, stores: list[GradientStore], layers: str, exact: dict[str, np.ndarray], found: dict[str, float]
) -> list[str]:
    """By estimator: the Spearman correlation of harm with the exact one, and the change in NDR@30."""
    told = []
    for estimator, harm in bench.harms(stores, ESTIMATORS, layers).items():
        change = noise_detection(harm, bench.planted).ndr(0.3) - found[estimator]
        told += [f"{spearmanr(harm, exact[estimator]).statistic:.4f}", f"{change:+.3f}"]
    return told


def compiled(bench: Bench) -> Iterator[tuple[str, str]]:
    """torch.compile, on the plain pass and under the hooks, after compilation."""
    passes: dict[str, Callable[[Bench, nn.Module], object]] = {
        "the plain pass": lambda b, model: replace(b, model=model).plain(),
        "the gradient pass": lambda b, model: b.stores(model=model),
    }
    for name, run in passes.items():
        torch._dynamo.reset()
        label = f"torch.compile of {name}"
        try:
            fast = torch.compile(bench.model, dynamic=True)
            start = time.perf_counter()
            run(bench, fast)
            first = time.perf_counter() - start
            before = bench.plain()
            start = time.perf_counter()
            run(bench, fast)
            seconds = time.perf_counter() - start
            ratio = 2 * seconds / (before + bench.plain())
            yield f"{label} (first pass with compilation: {first:.0f} s)", f"{ratio:.2f}"
        except Exception as error:  # a compiler that is not there is a finding too
            yield label, f"failed: {type(error).__name__}"


def padding_share(encoded: Encoded) -> float:
    batches = token_budget_batches(encoded.lengths, collect.TOKEN_BUDGET)
    padded = sum(len(b) * int(encoded.lengths[b].max()) for b in batches)
    return 1 - float(encoded.lengths.sum()) / padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.jsonl and validation.jsonl")
    parser.add_argument("--section", choices=("options", "projection", "inverse"), help="this section alone")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--some", type=int, default=500, help="samples for projection")
    parser.add_argument("--keep", type=Path, help="folder that keeps the trained model for other calls")
    parser.add_argument("--write", type=Path, help="Markdown file whose sections are replaced")
    options = parser.parse_args()
    sections: dict[str, Callable[[Bench], str]] = {
        "inverse": lambda bench: compare_inverse(bench, options.samples),
        "projection": lambda bench: compare_projection(bench, options.some),
        "options": lambda bench: compare_options(bench, options.repeats),
    }
    bench = trained(options)
    bench.plain()  # warm up
    for name in [options.section] if options.section else sections:
        text = sections[name](bench)
        print("\n" + text)
        if options.write:
            write_section(options.write, name, text)


if __name__ == "__main__":
    main()
