"""How near approximations come to what is exact: --project, and DataInf and LiSSA beside the exact inverse."""

import time

import numpy as np
import torch
from scipy.stats import spearmanr

from common import table
from trained import Bench
from undertow.gradients.store import stored_bytes
from undertow.influence.products import inner
from undertow.metrics.noise import noise_detection

ALL = "re:."  # frozen layers are in no group but this


def compare_projection(bench: Bench, samples: int) -> str:
    """--project on the frozen linear layers of the model: errors of inner products and harm."""
    some = bench.first(samples)
    exact = some.stores(("linear",))
    modules = range(len(exact[0]))
    products = [inner(exact[0][m], exact[1][m]) for m in modules]
    reference = some.harms(exact, ("tracin", "cosine"), ALL)
    dense = sum(k.size for k in exact[0].keys)
    rows = []
    for project in (4, 8, 16, 32):
        stores = some.stores(("linear",), project=project)
        errors = [_relative_error(inner(stores[0][m], stores[1][m]), products[m]) for m in modules]
        harms = some.harms(stores, ("tracin", "cosine"), ALL)
        held = stored_bytes(stores[0].layouts, some.samples, torch.float32) / samples
        told = [f"{spearmanr(harms[e], reference[e]).statistic:.3f}" for e in reference]
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


def _relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def compare_inverse(bench: Bench, samples: int) -> str:
    """DataInf and LiSSA beside the exact damped Gauss-Newton estimate."""
    some = bench.first(samples)
    stores = some.stores(("lora", "head"))
    rows, exact = [], None
    for estimator in ("exact", "datainf", "lissa", "tracin", "cosine"):
        start = time.perf_counter()
        harm = some.harms(stores, (estimator,))[estimator]
        seconds = time.perf_counter() - start
        exact = harm if exact is None else exact
        ndr = noise_detection(harm, some.planted).ndr(0.3)
        rows.append((estimator, f"{spearmanr(harm, exact).statistic:.3f}", f"{ndr:.3f}", f"{seconds:.1f}"))
    head = (
        f"MiniLM-L6 with LoRA, {samples:,} × {len(some.queries)} samples, {len(stores[0])} modules, Rank over all:\n\n"
    )
    return head + table(("estimator", "Spearman of harm with exact", "NDR@30", "seconds"), rows)
