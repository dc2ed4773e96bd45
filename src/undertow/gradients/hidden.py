"""Hidden states of each sample, layer by layer, from one pass without gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch, token_budget_batches
from undertow.errors import ConfigError, ModelError, TrainingError
from undertow.models.kernels import QuickLinear

# Tokens of a batch, padding included: the states of all layers of one batch are held at a time.
TOKEN_BUDGET = 2048
POOLINGS = ("last", "mean")
# The layers at the ends of the four quarters of a model, instead of a list of layers.
QUARTERS = "quarters"

Advance = Callable[[int], None]


@dataclass(frozen=True)
class HiddenStates:
    """One vector a sample and layer, pooled over the sample's real tokens.

    Attributes:
        layers: which layers these are: 0 is what the embeddings give, l what layer l gives (counted from 1).
        last: the state at the last real token, shape [layer, n, h]; None unless asked for.
        mean: the mean of the states over all real tokens, shape [layer, n, h]; None unless asked for.
    """

    layers: tuple[int, ...]
    last: Float[np.ndarray, "layer n h"] | None
    mean: Float[np.ndarray, "layer n h"] | None


def hidden_states(
    model: nn.Module,
    encoded: Encoded,
    *,
    pad_id: int,
    layers: Sequence[int] | str | None = None,
    pooling: Sequence[str] = POOLINGS,
    token_budget: int = TOKEN_BUDGET,
    advance: Advance = lambda n: None,
) -> HiddenStates:
    """Hidden states of each sample in eval mode, as ``output_hidden_states`` gives them.

    States are those between the layers; where a model normalises its last layer's output, the last state is
    normalised. Special tokens are real tokens, padding is not. Values are kept in float32 (in float64 for a
    model in float64) and do not depend on ``token_budget``. The model is left in eval mode.

    Args:
        model: a model of transformers, with or without a PEFT adapter.
        encoded: the samples, padded on the right within batches.
        pad_id: token id of the padding.
        layers: which to keep, negative ones counted from the last; `QUARTERS` keeps those at the ends of the four
            quarters of the model (fewer of one with fewer layers), None all, layers + 1 of them.
        pooling: "last", "mean" or both.
        token_budget: tokens of a batch, padding included.
        advance: called with the number of samples done.

    Raises:
        ConfigError: an unknown pooling, no layer at all, or a layer that the model does not have.
        ModelError: the model gives no hidden states.
        TrainingError: states that are not finite; names the samples by position.
    """
    _check(pooling, layers)
    device = next(model.parameters()).device
    model.eval()
    kept: dict[str, np.ndarray] = {}
    chosen: tuple[int, ...] = ()
    for positions in token_budget_batches(encoded.lengths, token_budget):
        batch = {name: torch.from_numpy(a).to(device) for name, a in pad_batch(encoded, positions, pad_id).items()}
        states = _forward(model, batch)
        chosen = chosen or _resolve(layers, len(states))
        for how in pooling:
            pooled = torch.stack([_pool(states[layer], batch["attention_mask"], how) for layer in chosen]).cpu().numpy()
            if how not in kept:
                kept[how] = np.empty((len(chosen), len(encoded), pooled.shape[2]), dtype=pooled.dtype)
            kept[how][:, positions] = pooled
        advance(len(positions))
    for values in kept.values():
        _check_finite(values)
    return HiddenStates(chosen, kept.get("last"), kept.get("mean"))


def _forward(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad(), QuickLinear():
        outputs = model(**batch, output_hidden_states=True)
    states: tuple[Tensor, ...] | None = getattr(outputs, "hidden_states", None)
    if not states:
        raise ModelError(
            f"{type(model).__name__} gives no hidden states when asked for output_hidden_states. Encoders and "
            "decoders of transformers do; leave out what needs hidden states for this model."
        )
    return states


def _pool(states: Float[Tensor, "b t h"], mask: Tensor, how: str) -> Float[Tensor, "b h"]:
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    if how == "last":
        return wide[torch.arange(len(wide), device=wide.device), mask.sum(1) - 1]
    # Where instead of a product: what stands at the padding may be anything, even NaN.
    return wide.where(mask[..., None] > 0, 0).sum(1) / mask.sum(1, keepdim=True)


def _check(pooling: Sequence[str], layers: Sequence[int] | str | None) -> None:
    unknown = [how for how in pooling if how not in POOLINGS]
    if unknown or not pooling:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"The pooling of hidden states is {came}. Known are: {', '.join(POOLINGS)}.")
    if isinstance(layers, str) and layers != QUARTERS:
        raise ConfigError(f"The layers of hidden states are {layers!r}. Give their numbers, {QUARTERS!r}, or None.")
    if layers is not None and not len(layers):
        raise ConfigError("No layer is named whose hidden states are to be kept. Name at least one, or give None.")


def _resolve(layers: Sequence[int] | str | None, there: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(there))
    if isinstance(layers, str):
        return tuple(sorted({math.ceil(quarter * (there - 1) / 4) for quarter in (1, 2, 3, 4)}))
    wrong = [layer for layer in layers if not -there <= layer < there]
    if wrong:
        raise ConfigError(
            f"The model has no hidden states of layer {', '.join(map(str, wrong))}. It has layers 0 (the "
            f"embeddings) to {there - 1}; negative numbers count from the last."
        )
    return tuple(layer % there for layer in layers)


def _check_finite(values: Float[np.ndarray, "layer n h"]) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(0, 2)))
    if len(bad):
        shown = ", ".join(map(str, bad[:10])) + (", …" if len(bad) > 10 else "")
        raise TrainingError(
            f"The hidden states of {len(bad)} of {values.shape[1]} samples are not finite (positions {shown}). The "
            "model has diverged, or these texts break it: look at these rows first, or load it in float32."
        )
