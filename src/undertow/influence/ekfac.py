"""EK-FAC influence, module by module, computed by the library kronfluence.

The influence of sample x on query x' through one linear layer is v^T (F + damping)^-1 g, with v and g the gradients
of their summed cross entropies and F the Fisher matrix of the layer in its Kronecker-factored eigenbasis, whose
eigenvalues are corrected (George et al. 2018, "Fast Approximate Natural Gradient Descent in a Kronecker-factored
Eigenbasis"; Grosse et al. 2023, "Studying Large Language Model Generalization with Influence Functions").
"""

import contextlib
import gc
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, token_budget_batches
from undertow.errors import ConfigError, ModelError, TrainingError
from undertow.gradients.collect import TOKEN_BUDGET, Advance
from undertow.influence.factored import NAME, RowBatches, analyzer_of
from undertow.models.modules import TrackedModule

STRATEGIES = ("ekfac", "kfac", "diagonal", "identity")
# Gradients of queries held at once; each further block of queries costs one more pass over the samples.
QUERY_BYTES = 2**30

_FIT_COVARIANCE = ("ekfac", "kfac")
_FIT_EIGENVALUES = ("ekfac", "diagonal")


def check_library() -> None:
    """Make sure that kronfluence can be imported.

    Raises:
        ConfigError: with the line that installs it.
    """
    try:
        import kronfluence.analyzer  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"The estimator ekfac needs the library kronfluence, which cannot be imported ({error}). Run "
            "pip install 'undertow[ekfac]', or choose another estimator."
        ) from error


def covers(tracked: TrackedModule) -> bool:
    """Whether EK-FAC knows the module: linear layers only, LoRA A and B among them."""
    return type(tracked.module) is nn.Linear  # kronfluence looks modules up by their exact type


def ekfac_rows(
    modules: Sequence[TrackedModule],
    queries: Encoded,
    samples: Encoded,
    *,
    token_budget: int = TOKEN_BUDGET,
    query_bytes: int = QUERY_BYTES,
    strategy: str = "ekfac",
    rows: int | None = None,
) -> int:
    """How many rows ``ekfac_influence`` passes through the model with these arguments: the sum of its progress."""
    batches = token_budget_batches(queries.lengths, token_budget)
    blocks = -(-len(batches) // _batches_at_once(modules, batches, query_bytes))
    fits = (strategy in _FIT_COVARIANCE) + (strategy in _FIT_EIGENVALUES)
    return len(queries) + blocks * len(samples) + fits * (len(samples) if rows is None else rows)


def ekfac_influence(
    model: nn.Module,
    modules: Sequence[TrackedModule],
    queries: Encoded,
    samples: Encoded,
    *,
    pad_id: int,
    scratch: Path,
    token_budget: int = TOKEN_BUDGET,
    query_bytes: int = QUERY_BYTES,
    strategy: str = "ekfac",
    damping: float | None = None,
    seed: int = 0,
    rows: int | None = None,
    advance: Advance = lambda n: None,
) -> dict[int, Float[Tensor, "q n"]]:
    """Influence of every sample on every query, by position in ``modules``, in float32; above 0 is helpful.

    The model is left as it is; a copy that shares its weights runs, in eval mode. F is fitted on ``samples``, each
    with a label drawn from the model's own prediction (``factored.sampled_labels``) by its number among
    ``numpy.random.default_rng(seed).random(n)``. It is the same label for the eigenbasis and for the eigenvalues:
    where few samples leave directions without a gradient, the choice of axes there then makes no difference. So
    neither batches (``token_budget``, tokens with padding) nor blocks of queries (``query_bytes``) change a result.
    All results are in memory at once: 4 q n bytes a module, as much again in a temporary folder inside ``scratch``.

    Args:
        model: a sequence classification model, with LoRA or without.
        modules: linear layers of the model (see ``covers``), each running once in a forward pass.
        queries: the q trusted rows.
        samples: the n training rows.
        pad_id: token that fills short rows up.
        scratch: folder for temporary files, made if missing.
        strategy: ``ekfac``; ``kfac`` without corrected eigenvalues; ``diagonal`` without an eigenbasis; or
            ``identity``, which is TracIn.
        damping: added to the eigenvalues of F; None for a tenth of their mean, for each module apart. Where that is
            0, because no drawn label has a gradient in the module, the influence is 0.
        seed: of the labels that are drawn.
        rows: F is fitted on the first so many samples; those behind them are control rows. All by default.
        advance: told how many rows went through the model; ``ekfac_rows`` is their total.

    Raises:
        ConfigError: when kronfluence is missing, or for an unknown strategy or a damping below 0.
        ModelError: for a module that is not covered, is not part of the model, or does not run exactly once.
        TrainingError: when a loss or an influence is not finite.
    """
    _check_settings(strategy, damping)
    check_library()
    names = _names(model, modules)
    at_once = _batches_at_once(modules, token_budget_batches(queries.lengths, token_budget), query_bytes)
    scratch.mkdir(parents=True, exist_ok=True)
    with _undisturbed(), tempfile.TemporaryDirectory(prefix="ekfac-", dir=scratch) as folder:
        query_batches = RowBatches.cut(queries, token_budget, pad_id, seed)
        sample_batches = RowBatches.cut(samples, token_budget, pad_id, seed)
        analyzer = analyzer_of(model, names, query_batches[0], folder, advance)
        fitted = samples if rows is None else samples.select(np.arange(rows))
        _fit(analyzer, RowBatches.cut(fitted, token_budget, pad_id, seed), strategy)
        scores = _score(analyzer, query_batches, sample_batches, at_once, damping)
        for name in [] if damping else _without_curvature(analyzer, strategy):
            scores[name] = torch.zeros_like(scores[name])
    lines, columns = query_batches.places(), sample_batches.places()
    influence = {m: scores.pop(name)[lines][:, columns].float() for m, name in enumerate(names)}
    _check_finite(influence, modules, strategy)
    return influence


def _fit(analyzer: Any, samples: RowBatches, strategy: str) -> None:
    from kronfluence.arguments import FactorArguments

    arguments = FactorArguments(strategy=strategy, covariance_max_examples=None, lambda_max_examples=None)
    analyzer.fit_all_factors(NAME, samples, per_device_batch_size=1, factor_args=arguments)


def _score(
    analyzer: Any, queries: RowBatches, samples: RowBatches, at_once: int, damping: float | None
) -> dict[str, Float[Tensor, "q n"]]:
    from kronfluence.arguments import ScoreArguments

    analyzer.compute_pairwise_scores(
        scores_name=NAME,
        factors_name=NAME,
        query_dataset=queries,
        train_dataset=samples,
        per_device_query_batch_size=1,
        per_device_train_batch_size=1,
        score_args=ScoreArguments(
            damping_factor=damping, compute_per_module_scores=True, query_gradient_accumulation_steps=at_once
        ),
    )
    scores: dict[str, Tensor] = analyzer.load_pairwise_scores(scores_name=NAME)
    return scores


def _without_curvature(analyzer: Any, strategy: str) -> list[str]:
    """Names of the modules where F is zero throughout."""
    if strategy == "identity":
        return []
    if strategy == "kfac":
        factors = analyzer.load_covariance_matrices(factors_name=NAME)["gradient_covariance"]
    else:
        factors = analyzer.load_lambda_matrices(factors_name=NAME)["lambda_matrix"]
    return [name for name, factor in factors.items() if not factor.any()]


def _names(model: nn.Module, modules: Sequence[TrackedModule]) -> list[str]:
    """Path of each module inside the model."""
    refused = [f"{t.key.name} ({type(t.module).__name__})" for t in modules if not covers(t)]
    if refused or not modules:
        raise ModelError(
            f"The estimator ekfac got {', '.join(refused) or 'no module'}; it covers linear layers (nn.Linear) only, "
            "LoRA A and B among them. Restrict the tracked modules to those, or choose another estimator."
        )
    paths = {id(module): path for path, module in model.named_modules()}
    foreign = [t.key.name for t in modules if id(t.module) not in paths]
    if foreign:
        raise ModelError(
            f"These modules are not part of the {type(model).__name__} that was given: {', '.join(foreign)}. Take "
            "them from the same model, with tracked_modules(model)."
        )
    return [paths[id(t.module)] for t in modules]


def _batches_at_once(
    modules: Sequence[TrackedModule], batches: Sequence[Int[np.ndarray, " _"]], query_bytes: int
) -> int:
    """How many batches of queries keep their gradients (float32) within ``query_bytes``; at least one."""
    size = sum(p.numel() for t in modules for p in t.module.parameters())
    rows = max((len(b) for b in batches), default=1)
    return max(1, query_bytes // (4 * size * rows))


def _check_settings(strategy: str, damping: float | None) -> None:
    if strategy not in STRATEGIES:
        raise ConfigError(f"The strategy is {strategy!r}. Known strategies are: {', '.join(STRATEGIES)}.")
    if damping is not None and not 0 <= damping < float("inf"):
        raise ConfigError(f"The damping is {damping}. Give 0 or more, or None for a tenth of the mean eigenvalue.")


def _check_finite(influence: Mapping[int, Tensor], modules: Sequence[TrackedModule], strategy: str) -> None:
    bad = [modules[m].key.name for m, values in influence.items() if not torch.isfinite(values).all()]
    if bad:
        raise TrainingError(
            f"{strategy} yielded NaN or infinity on {', '.join(bad)}: eigenvalues near 0 were inverted, or the model "
            "has diverged. Give a larger damping, or None for a tenth of the mean eigenvalue."
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Loading rows draws from torch's random numbers, and kronfluence uses names that newer torch deprecates."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="kronfluence")
        # kronfluence collects garbage a dozen times, for 0.3 s each unless it is spared what was there before.
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
