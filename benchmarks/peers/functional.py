"""What the peers on torch.func share: the loss of one row as a function of the tracked weights, and a loader for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from work import ByLength, Work

from undertow.data import Encoded

# vmap has no rule for the fused attention of a CPU (it falls back to a loop), and models ask the values of a
# two-dimensional mask, which vmap refuses: plain attention with the mask already spread out avoids both.
_ATTENTION = "eager"


def weights(work: Work) -> dict[str, Tensor]:
    """The weights and biases of the tracked modules, by their name in the model."""
    return {f"{path}.{name}": p for path, m in work.tracked.items() for name, p in m.named_parameters()}


@contextmanager
def plain_attention(work: Work) -> Iterator[None]:
    """While open, the model computes attention by ordinary matrix products."""
    base = work.model.get_base_model()
    before = base.config._attn_implementation
    base.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


@contextmanager
def only_tracked(work: Work) -> Iterator[None]:
    """While open, nothing but the tracked weights requires a gradient."""
    tracked = {id(p) for p in weights(work).values()}
    before = [(p, p.requires_grad) for p in work.model.parameters()]
    for p, _ in before:
        p.requires_grad_(id(p) in tracked)
    try:
        yield
    finally:
        for p, requires in before:
            p.requires_grad_(requires)


def row_loss(work: Work, parameters: Mapping[str, Tensor], row: Sequence[Tensor]) -> Tensor:
    """Loss of one row without a batch axis; what ``parameters`` lacks is the model's own."""
    inputs = {name: t.unsqueeze(0) for name, t in zip(work.fields, row, strict=True)}
    label = inputs.pop("labels")
    logits = functional_call(work.model, dict(parameters), (), inputs).logits
    return nn.functional.cross_entropy(logits, label)


def loader(work: Work, encoded: Encoded, rows: int) -> DataLoader:
    """As ``Work.loader``, as tuples in the order of ``work.fields`` with masks that vmap accepts."""

    def collate(positions: list[int]) -> tuple[Tensor, ...]:
        batch = work.batch(encoded, positions)
        batch["attention_mask"] = additive_mask(work, batch["attention_mask"])
        return tuple(batch[name] for name in work.fields)

    return DataLoader(ByLength(encoded), batch_size=rows, collate_fn=collate)


def additive_mask(work: Work, mask: Tensor) -> Tensor:
    """[row, 1, token, token]: 0 where a token may look, the lowest number where it may not."""
    length = mask.shape[1]
    allowed = mask.bool()[:, None, None, :].expand(-1, 1, length, length)
    if work.causal:
        allowed = allowed & torch.ones(length, length, dtype=torch.bool).tril()
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
