"""The work that every peer does, the order it is done in, and what comes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common import adapted, glue
from undertow.data import Encoded, encode, pad_batch, token_budget_batches

# As undertow's own passes cut batches: tokens with padding, rows sorted by length.
TOKEN_BUDGET = 1024
MAX_LENGTH = 128
# Key of an influence that is summed over modules.
SUMMED = "(sum of modules)"


@dataclass(frozen=True)
class Work:
    """A model and two sets of rows; wanted is the inner product of every query's gradient with every sample's.

    Attributes:
        name: what the model is called.
        model: the classifier with LoRA, in eval mode; its LoRA weights and head require gradients.
        tracked: the linear layers whose gradients count, by their path in the model.
        head: the paths among them that belong to the classification head.
        causal: whether a token sees only those before it.
        single: rows that the loop of single rows may use of each set.
    """

    name: str
    model: nn.Module
    pad_id: int
    queries: Encoded
    samples: Encoded
    tracked: dict[str, nn.Linear]
    head: frozenset[str]
    causal: bool
    single: int

    @property
    def fields(self) -> tuple[str, ...]:
        """What a batch consists of, the labels last."""
        return tuple(self.batch(self.queries, [0]))

    def without_head(self) -> "Work":
        """The same work on the LoRA modules alone."""
        lora = {path: m for path, m in self.tracked.items() if path not in self.head}
        return replace(self, tracked=lora, head=frozenset())

    def batch(self, encoded: Encoded, positions: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """Padded inputs of some rows with their ``labels``."""
        rows = np.asarray(positions)
        arrays = {**pad_batch(encoded, rows, self.pad_id), "labels": encoded.labels[rows]}
        return {name: torch.from_numpy(a) for name, a in arrays.items()}

    def loader(self, encoded: Encoded, rows: int | None = None, *, labels_apart: bool = False) -> DataLoader:
        """Batches by falling length: ``rows`` each, or as many as the token budget holds.

        A batch is a dict, or with ``labels_apart`` a tuple that ends in the labels.
        """

        def collate(positions: list[int]) -> dict[str, Tensor] | tuple[Tensor, ...]:
            batch = self.batch(encoded, positions)
            return tuple(batch.values()) if labels_apart else batch

        data = ByLength(encoded)
        if rows is not None:
            return DataLoader(data, batch_size=rows, collate_fn=collate)
        sizes = [len(b) for b in token_budget_batches(encoded.lengths, TOKEN_BUDGET)]
        return DataLoader(data, batch_sampler=_runs(sizes), collate_fn=collate)

    def unsorted(self, values: Tensor) -> np.ndarray:
        """Influence [query, sample] in the order of the data, from one by falling length."""
        out = np.empty(tuple(values.shape), dtype=np.float32)
        out[np.ix_(by_length(self.queries), by_length(self.samples))] = values.detach().float().cpu().numpy()
        return out


class ByLength(Dataset):
    """Positions of rows, longest row first."""

    def __init__(self, encoded: Encoded) -> None:
        self.order = by_length(encoded).tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> int:
        return self.order[place]


@dataclass(frozen=True)
class Outcome:
    """What a peer hands back.

    Attributes:
        influence: [query, sample] by module path, or one array under ``SUMMED``.
        modules: paths of the modules that it covers.
        seconds: estimate for the whole job, where only a part of it was done.
        rows: positions of the queries and of the samples, where only a part was done.
    """

    influence: dict[str, np.ndarray]
    modules: tuple[str, ...]
    seconds: float | None = None
    rows: tuple[np.ndarray, np.ndarray] | None = None


def by_length(encoded: Encoded) -> np.ndarray:
    """Positions by falling length, the order in which ``token_budget_batches`` cuts."""
    return np.argsort(-encoded.lengths, kind="stable")


def _runs(sizes: Sequence[int]) -> list[list[int]]:
    ends = np.cumsum(sizes)
    return [list(range(end - size, end)) for size, end in zip(sizes, ends.tolist(), strict=True)]


def prepare(model: str, data: Path, samples: int, queries: int, single: int) -> Work:
    """Load the model with LoRA and encode the rows."""
    train, validation = glue(data, "sst2")
    name, classifier, tokenizer = adapted(model, train.classes)
    tracked = dict(_tracked(classifier))
    return Work(
        name=name,
        model=classifier,
        pad_id=tokenizer.pad_token_id,
        queries=encode(validation.select(np.arange(queries)), tokenizer, MAX_LENGTH),
        samples=encode(train.select(np.arange(samples)), tokenizer, MAX_LENGTH),
        tracked=tracked,
        head=frozenset(p for p in tracked if ".lora_" not in p),
        causal=model == "smollm2",
        single=single,
    )


def _tracked(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """LoRA A and B, and the trained copy of the head."""
    for path, module in model.named_modules():
        wanted = ".lora_A." in path or ".lora_B." in path or ".modules_to_save." in path
        if wanted and isinstance(module, nn.Linear):
            yield path, module


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Each row's own loss."""
    inputs = {name: t for name, t in batch.items() if name != "labels"}
    return nn.functional.cross_entropy(model(**inputs).logits, batch["labels"], reduction="none")


def plain_pass(work: Work, *sets: Encoded) -> None:
    """Forward and backward over all rows, with gradients of the LoRA weights and the head: what any peer builds on."""
    for encoded in sets or (work.queries, work.samples):
        for batch in work.loader(encoded):
            losses(work.model, batch).sum().backward()
            work.model.zero_grad()
