"""Turns texts into token ids, and cuts them into batches of similar length."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from undertow.data.samples import Samples
from undertow.data.wording import first_rows
from undertow.errors import ConfigError, DataError

if TYPE_CHECKING:
    import transformers

CHUNK_ROWS = 1000
# What a batch costs beside its tokens, in tokens: calls, and weights that are read again. About 20 to 60 on a CPU.
BATCH = 64


@dataclass(frozen=True)
class Encoded:
    """Token ids without padding, one list per row.

    Attributes:
        input_ids: token ids, special tokens included.
        token_type_ids: which text a token is from; None where the tokenizer gives none.
        labels: class index of each row, shape [n].
        lengths: tokens of each row, shape [n].
        truncated: how many rows were longer before they were cut.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    labels: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    truncated: int

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.input_ids)

    def select(self, positions: Int[np.ndarray, " m"]) -> "Encoded":
        """The rows at these positions, in this order; how many of them were cut is not known and counts as 0."""
        types = self.token_type_ids
        return Encoded(
            [self.input_ids[p] for p in positions],
            None if types is None else [types[p] for p in positions],
            self.labels[positions],
            self.lengths[positions],
            0,
        )


def encode(samples: Samples, tokenizer: "transformers.PreTrainedTokenizerBase", max_length: int) -> Encoded:
    """Tokenizes all rows, cutting those longer than ``max_length`` tokens.

    Raises:
        ConfigError: ``max_length`` leaves no room for text beside the special tokens.
        DataError: a row has no tokens at all.
    """
    special = int(tokenizer.num_special_tokens_to_add(pair=samples.text_pairs is not None))
    if max_length <= special:
        raise ConfigError(
            f"The maximum length is {max_length} tokens, of which {special} are special tokens. Give at "
            f"least {special + 1}; 128 is usual."
        )
    input_ids: list[list[int]] = []
    type_ids: list[list[int]] = []
    truncated = 0
    for start in range(0, len(samples), CHUNK_ROWS):
        stop = start + CHUNK_ROWS
        pairs = samples.text_pairs[start:stop] if samples.text_pairs is not None else None
        ids, types, cut = _encode_chunk(tokenizer, samples.texts[start:stop], pairs, max_length)
        input_ids += ids
        type_ids += types
        truncated += cut
    lengths = np.array([len(ids) for ids in input_ids], dtype=np.int64)
    empty = np.flatnonzero(lengths == 0).tolist()
    if empty:
        raise DataError(
            f"The tokenizer finds no token in {len(empty)} texts of {samples.source}: {first_rows(empty)}. "
            "The model has nothing to read there; leave these rows out, or use a tokenizer that knows their "
            "script."
        )
    return Encoded(input_ids, type_ids or None, samples.labels, lengths, truncated)


def _encode_chunk(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
) -> tuple[list[list[int]], list[list[int]], int]:
    """Token ids, token type ids (empty where there are none) and the number of rows cut."""
    # Uncut first: only so do slow and fast tokenizers alike tell how long a row was. Without verbose=False a
    # tokenizer warns about lengths beyond its model, though nothing that long is handed on.
    whole = tokenizer(texts, pairs, truncation=False, padding=False, verbose=False)
    ids: list[list[int]] = [list(row) for row in whole["input_ids"]]
    types: list[list[int]] = [list(row) for row in whole.get("token_type_ids", [])]
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        cut: Any = tokenizer(
            [texts[row] for row in long],
            [pairs[row] for row in long] if pairs is not None else None,
            truncation=True,
            max_length=max_length,
            padding=False,
            verbose=False,
        )
        for place, row in enumerate(long):
            ids[row] = list(cut["input_ids"][place])
            if types:
                types[row] = list(cut["token_type_ids"][place])
    return ids, types, len(long)


def token_budget_batches(lengths: Int[np.ndarray, " n"], budget: int) -> list[Int[np.ndarray, " _"]]:
    """Positions in batches of similar length, longest first, each of at most ``budget`` tokens with padding.

    Cut where the tokens with padding are fewest, `BATCH` more of them counted for each batch. A row longer than the
    budget is a batch of its own. Rows of equal length keep their order.

    Raises:
        ConfigError: ``budget`` is below 1.
    """
    if budget < 1:
        raise ConfigError(f"The token budget of a batch is {budget}. It is at least 1; 1024 is usual.")
    order = np.argsort(-lengths, kind="stable")
    starts = _cheapest_starts(np.maximum(lengths[order], 1), budget)
    return [order[first:last] for first, last in pairwise([*starts, len(order)])]


def _cheapest_starts(ordered: Int[np.ndarray, " n"], budget: int) -> list[int]:
    """Where the batches of rows by falling length begin; the shortest path through all ways to cut them."""
    count = len(ordered)
    least = np.full(count + 1, np.iinfo(np.int64).max, dtype=np.int64)
    least[0], before = 0, np.zeros(count + 1, dtype=np.int64)
    for start, longest in enumerate(ordered.tolist()):
        rows = min(max(1, budget // longest), count - start)
        cost = least[start] + BATCH + longest * np.arange(1, rows + 1)
        ends = slice(start + 1, start + rows + 1)
        better = cost <= least[ends]  # of equal ways, the fewest rows in the last batch
        least[ends][better] = cost[better]
        before[ends][better] = start
    starts, end = [], count
    while end:
        end = int(before[end])
        starts.append(end)
    return starts[::-1]


def pad_batch(
    encoded: Encoded, positions: Int[np.ndarray, " rows"], pad_id: int, *, width: int = 0
) -> dict[str, Int[np.ndarray, "rows width"]]:
    """``input_ids``, ``attention_mask`` and, where there are any, ``token_type_ids``, padded on the right.

    To the longest of the rows, and at least to ``width`` tokens.
    """
    shape = (len(positions), int(encoded.lengths[positions].max(initial=width)))
    batch = {
        "input_ids": np.full(shape, pad_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
    }
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = np.zeros(shape, dtype=np.int64)
    for place, row in enumerate(positions.tolist()):
        length = int(encoded.lengths[row])
        batch["input_ids"][place, :length] = encoded.input_ids[row]
        batch["attention_mask"][place, :length] = 1
        if encoded.token_type_ids is not None:
            batch["token_type_ids"][place, :length] = encoded.token_type_ids[row]
    return batch
