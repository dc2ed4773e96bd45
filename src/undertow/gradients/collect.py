"""One pass over a set of samples: gradients of all tracked modules, losses and class probabilities."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertow.data.tokenize import Encoded, pad_batch, token_budget_batches
from undertow.errors import TrainingError
from undertow.gradients.attention import quick_attention
from undertow.gradients.columns import Batch, SharedInputError
from undertow.gradients.hooks import capture, first_token_only
from undertow.gradients.store import GradientStore
from undertow.models.kernels import QuickLinear
from undertow.models.modules import TrackedModule

# Tokens of a batch, padding included. Larger batches gain nothing on a CPU: they pad more and leave its caches.
TOKEN_BUDGET = 1024

Advance = Callable[[int], None]
Say = Callable[[str], None]


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
    part: tuple[int, int] = (0, 1),
    autocast: torch.dtype | None = None,
    advance: Advance = lambda n: None,
    say: Say = lambda text: None,
) -> None:
    """Fill ``store`` with the gradient of each sample's own loss, in eval mode (no dropout).

    Batches are cut by ``token_budget`` over length-sorted samples; results do not depend on it. A budget that
    does not fit into memory is halved, and said. Samples that the store holds already are passed over. Loss and
    probabilities come to the store from the same pass.

    Args:
        model: a classifier.
        modules: its tracked modules.
        encoded: the samples.
        store: receives the gradients.
        pad_id: token that pads.
        token_budget: tokens of a batch, padding included.
        part: (index, count): every count-th batch from index on, where several processes share the work.
        autocast: precision that the model computes in, None for that of its weights.
        advance: told how many samples are done.
        say: told when the budget is halved.

    Raises:
        TrainingError: where the loss or a gradient of a sample is not finite; names the rows by position.
    """
    device = next(model.parameters()).device
    model.eval()
    current: Batch | None = None

    def receive(module: int, x: Tensor | None, delta: Tensor) -> None:
        assert current is not None
        store.receive(module, current, x, delta)

    def run(positions: Int[np.ndarray, " b"]) -> None:
        nonlocal current
        arrays = pad_batch(encoded, positions, pad_id)
        batch = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
        current = Batch(torch.from_numpy(positions), batch["attention_mask"].bool())
        labels = torch.from_numpy(encoded.labels[positions])
        with torch.autocast(device.type, autocast) if autocast else nullcontext():
            logits: Tensor = model(**batch).logits
            losses = _sample_losses(logits, labels.to(device))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        wide = logits.detach().double().cpu()
        store.commit(current, _sample_losses(wide, labels), wide.softmax(-1))

    pending = _pending(encoded, store, token_budget, part)
    if any(layout.shared for layout in store.layouts):
        pending = [
            p[i : i + 1] for p in pending for i in range(len(p))
        ]  # one input for the whole batch: batches of one
    advance(store.finished_before)
    with (
        QuickLinear(),
        first_token_only(model),
        quick_attention(device, autocast),
        capture(model, modules, receive),
    ):
        while pending:
            positions = pending.pop()
            try:
                run(positions)
            except SharedInputError:
                raise AssertionError("a module sees a shared input that the probe did not") from None
            except RuntimeError as error:
                if not _out_of_memory(error) or len(positions) == 1:
                    raise
                del error
                store.discard()
                token_budget //= 2
                say(f"The batch did not fit into memory; going on with batches of {token_budget:,} tokens.")
                pending = [p for some in (*pending, positions) for p in _cut(encoded, some, token_budget)]
                continue
            advance(len(positions))
    done = store.done.numpy().astype(bool)  # as of now: another process may be writing its own
    _check_finite(store.loss.numpy()[done], np.flatnonzero(done))
    _check_gradients(store)


def predictions(store: GradientStore) -> Predictions:
    """Loss and probabilities that came with the gradients of all samples."""
    return Predictions(store.loss.numpy(), store.probabilities.numpy())


def _pending(
    encoded: Encoded, store: GradientStore, token_budget: int, part: tuple[int, int]
) -> list[Int[np.ndarray, " _"]]:
    """Batches that hold a sample that is not done, in falling order of work."""
    index, count = part
    done = store.done.numpy().astype(bool)
    batches = token_budget_batches(encoded.lengths, token_budget)[index::count]
    # Whole batches even where only some of their samples are missing: their values must not depend on it.
    return [b for b in reversed(batches) if not done[b].all()]


def _cut(encoded: Encoded, positions: Int[np.ndarray, " b"], token_budget: int) -> list[Int[np.ndarray, " _"]]:
    return [positions[p] for p in token_budget_batches(encoded.lengths[positions], token_budget)]


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def predict(
    model: nn.Module,
    encoded: Encoded,
    *,
    pad_id: int,
    token_budget: int = TOKEN_BUDGET,
    advance: Advance = lambda n: None,
) -> Predictions:
    """Losses and probabilities of each sample, without gradients."""
    device = next(model.parameters()).device
    model.eval()
    loss, probabilities = np.empty(len(encoded)), None
    for positions in token_budget_batches(encoded.lengths, token_budget):
        arrays: dict[str, Any] = pad_batch(encoded, positions, pad_id)
        with torch.no_grad(), QuickLinear(), first_token_only(model):
            logits = model(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()}).logits
        wide = logits.double().cpu()
        probabilities = np.empty((len(encoded), wide.shape[1])) if probabilities is None else probabilities
        loss[positions] = _sample_losses(wide, torch.from_numpy(encoded.labels[positions])).numpy()
        probabilities[positions] = wide.softmax(-1).numpy()
        advance(len(positions))
    _check_finite(loss, np.arange(len(loss)))
    assert probabilities is not None
    return Predictions(loss, probabilities)


def _sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    # In float64: softmax minus one-hot of a saturated row is otherwise the rounding error of float32.
    return nn.functional.cross_entropy(logits.double(), labels, reduction="none")


def _check_finite(loss: Float[np.ndarray, " n"], positions: Int[np.ndarray, " n"]) -> None:
    bad = positions[~np.isfinite(loss)]
    if len(bad):
        raise TrainingError(
            f"The loss of {len(bad)} of {len(loss)} samples is not finite (positions {_shown(bad)}). The model has "
            "diverged, or these texts break it: lower --learning-rate, or look at these rows first."
        )


def _check_gradients(store: GradientStore) -> None:
    bad = np.flatnonzero(store.done.numpy() == 2)
    if len(bad):
        narrow = store.dtype == torch.float16
        advice = "float16 overflows above 65,504: keep gradients in bfloat16 or float32. " if narrow else ""
        raise TrainingError(
            f"Gradients of {len(bad)} of {store.finished_before} samples are not finite (positions {_shown(bad)}), "
            f"though their loss is. {advice}The model may have diverged: lower --learning-rate, or look at these rows "
            "first."
        )


def _shown(positions: Int[np.ndarray, " n"]) -> str:
    return ", ".join(map(str, positions[:10])) + (", …" if len(positions) > 10 else "")
