"""One pass over a set of samples: gradients of all tracked modules, losses and class probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch, token_budget_batches
from undertow.errors import TrainingError
from undertow.gradients.hooks import capture
from undertow.gradients.store import GradientStore
from undertow.models.modules import TrackedModule

# Tokens of a batch, padding included. Larger batches gain nothing on a CPU and cost memory.
TOKEN_BUDGET = 2048

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Predictions:
    """What a model says of each sample: its loss under the given label, and class probabilities."""

    loss: Float[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """Most probable class of each sample."""
        predicted: np.ndarray = self.probabilities.argmax(1)
        return predicted


def collect_gradients(
    model: nn.Module,
    modules: Sequence[TrackedModule],
    encoded: Encoded,
    store: GradientStore,
    *,
    pad_id: int,
    token_budget: int = TOKEN_BUDGET,
    advance: Advance = lambda n: None,
) -> Predictions:
    """Fill ``store`` with the gradient of each sample's own loss, in eval mode (no dropout).

    Batches are cut by ``token_budget`` over length-sorted samples; results do not depend on it.

    Raises:
        TrainingError: where the loss of a sample is not finite; names the rows by position.
    """

    here = torch.empty(0, dtype=torch.int64)

    def sink(module: int, gradients: Tensor) -> None:
        store.add(module, here, gradients)

    def run(batch: dict[str, Tensor], labels: Tensor, positions: Tensor) -> Tensor:
        nonlocal here
        here = positions
        logits: Tensor = model(**batch).logits
        _sample_losses(logits, labels).sum().backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    with capture(model, modules, sink):
        return _over_batches(model, encoded, run, pad_id, token_budget, advance)


def predict(
    model: nn.Module,
    encoded: Encoded,
    *,
    pad_id: int,
    token_budget: int = TOKEN_BUDGET,
    advance: Advance = lambda n: None,
) -> Predictions:
    """Losses and probabilities of each sample, without gradients."""

    def run(batch: dict[str, Tensor], *_: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(**batch).logits
        return logits

    return _over_batches(model, encoded, run, pad_id, token_budget, advance)


def _over_batches(
    model: nn.Module,
    encoded: Encoded,
    run: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    pad_id: int,
    token_budget: int,
    advance: Advance,
) -> Predictions:
    device = next(model.parameters()).device
    model.eval()
    losses: list[tuple[np.ndarray, Tensor, Tensor]] = []
    for positions in token_budget_batches(encoded.lengths, token_budget):
        arrays = pad_batch(encoded, positions, pad_id)
        batch = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
        labels = torch.from_numpy(encoded.labels[positions]).to(device)
        logits = run(batch, labels, torch.from_numpy(positions))
        wide = logits.double().cpu()
        losses.append((positions, _sample_losses(wide, labels.cpu()), wide.softmax(-1)))
        advance(len(positions))
    order = np.argsort(np.concatenate([p for p, _, _ in losses]))
    loss = torch.cat([a for _, a, _ in losses]).numpy()[order]
    probabilities = torch.cat([b for _, _, b in losses]).numpy()[order]
    _check_finite(loss)
    return Predictions(loss, probabilities)


def _sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.cross_entropy(logits.to(wide), labels, reduction="none")


def _check_finite(loss: Float[np.ndarray, " n"]) -> None:
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        shown = ", ".join(map(str, bad[:10])) + (", …" if len(bad) > 10 else "")
        raise TrainingError(
            f"The loss of {len(bad)} of {len(loss)} samples is not finite (positions {shown}). The model has "
            "diverged, or these texts break it: lower --learning-rate, or look at these rows first."
        )
