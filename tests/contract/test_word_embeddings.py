"""TracIn on word embeddings: which words count, matched by what they are, for each pair alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undertow.gradients.matrices import SparseGradients
from undertow.influence.block import GradientBlock
from undertow.influence.estimators.word_embeddings import tracin_we, tracin_we_k, tracin_we_k_pair

from . import reference

quick = settings(max_examples=25, deadline=None)
Samples = list[reference.Words]

VOCABULARY = 9
SELECTING = {"tracin-we-k": tracin_we_k, "tracin-we-k-pair": tracin_we_k_pair}
EQUATIONS = {"tracin-we-k": reference.tracin_we_k, "tracin-we-k-pair": reference.tracin_we_k_pair}
each_selection = pytest.mark.parametrize("name", sorted(SELECTING))

# Norms are whole numbers, so that many are equal, also per occurrence, and equal to the last digit.
whole_rows = st.sampled_from([(0.0, 0.0), (1.0, 0.0), (0.0, -1.0), (-2.0, 0.0), (3.0, 4.0), (0.0, 6.0), (-4.0, 3.0)])
any_rows = st.tuples(st.floats(-8, 8), st.floats(-8, 8))


def samples_of(rows: st.SearchStrategy[tuple[float, float]], most: int) -> st.SearchStrategy[Samples]:
    """Samples with some tokens of a small vocabulary, or with none."""
    words = st.dictionaries(st.integers(0, VOCABULARY - 1), st.tuples(rows, st.sampled_from([1, 1, 2, 3])), max_size=6)
    return st.lists(words, min_size=1, max_size=most)


def held(samples: Samples, dtype: torch.dtype = torch.float64) -> SparseGradients:
    flat = [(row, token, count) for words in samples for token, (row, count) in sorted(words.items())]
    starts = torch.tensor([0, *(len(words) for words in samples)]).cumsum(0)
    return SparseGradients(
        torch.tensor([row for row, _, _ in flat], dtype=dtype).view(-1, 2),
        torch.tensor([token for _, token, _ in flat], dtype=torch.int64),
        torch.tensor([count for _, _, count in flat], dtype=torch.int64),
        starts,
        VOCABULARY,
    )


def influence(name: str, queries: Samples, samples: Samples, k: int) -> Tensor:
    return SELECTING[name](GradientBlock(held(queries), held(samples)), k)


def expected_influence(name: str, queries: Samples, samples: Samples, k: int) -> Tensor:
    return torch.tensor(EQUATIONS[name](queries, samples, k), dtype=torch.float64)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * (1 + float(expected.abs().max())))


@each_selection
@pytest.mark.parametrize("rows", [whole_rows, any_rows], ids=["ties", "any"])
@quick
@given(data=st.data(), k=st.integers(1, 4))
def test_keeps_the_largest_words(name: str, rows: st.SearchStrategy[tuple[float, float]], data: st.DataObject, k: int):
    queries, samples = data.draw(samples_of(rows, 3)), data.draw(samples_of(rows, 5))
    assert_close(influence(name, queries, samples, k), expected_influence(name, queries, samples, k))


@each_selection
@quick
@given(queries=samples_of(whole_rows, 2), samples=samples_of(whole_rows, 5), k=st.integers(1, 3), data=st.data())
def test_a_pair_does_not_depend_on_its_block(
    name: str, queries: Samples, samples: Samples, k: int, data: st.DataObject
):
    whole = influence(name, queries, samples, k)
    q, s = data.draw(st.integers(0, len(queries) - 1)), data.draw(st.integers(0, len(samples) - 1))
    assert torch.equal(influence(name, [queries[q]], [samples[s]], k)[0, 0], whole[q, s])
    assert torch.equal(influence(name, queries, samples[: s + 1], k), whole[:, : s + 1])
    assert torch.equal(influence(name, queries, samples[s:], k), whole[:, s:])


@each_selection
@quick
@given(queries=samples_of(any_rows, 3), samples=samples_of(any_rows, 5))
def test_keeping_every_word_is_the_whole(name: str, queries: Samples, samples: Samples):
    whole = tracin_we(GradientBlock(held(queries), held(samples)))
    most = max(len(words) for words in [*queries, *samples])
    assert_close(influence(name, queries, samples, max(most, 1)), whole)
    assert_close(whole, torch.tensor(reference.tracin_we(queries, samples), dtype=torch.float64))


@quick
@given(queries=samples_of(any_rows, 3), samples=samples_of(any_rows, 5), k=st.integers(1, 4))
def test_the_choice_per_pair_is_the_plain_one_where_few_are_shared(queries: Samples, samples: Samples, k: int):
    whole = tracin_we(GradientBlock(held(queries), held(samples)))
    found = influence("tracin-we-k-pair", queries, samples, k)
    for q, v in enumerate(queries):
        for s, g in enumerate(samples):
            if len(v.keys() & g.keys()) <= k:
                assert float(found[q, s]) == pytest.approx(float(whole[q, s]), abs=1e-9)


def one(row: tuple[float, float], count: int = 1) -> tuple[tuple[float, float], int]:
    return row, count


def test_words_are_matched_by_identity():
    # Each keeps one word, the first of its list, but not the same one.
    queries, samples = [{1: one((5.0, 0.0)), 2: one((1.0, 0.0))}], [{1: one((1.0, 0.0)), 2: one((5.0, 0.0))}]
    assert influence("tracin-we-k", queries, samples, 1).tolist() == [[0.0]]
    assert influence("tracin-we-k-pair", queries, samples, 1).tolist() == [[0.0]]
    assert influence("tracin-we-k", queries, samples, 2).tolist() == [[10.0]]


def test_the_norm_is_per_occurrence():
    # The row of a word adds up over its occurrences: six times 1 is less than once 2.
    queries = [{1: one((6.0, 0.0), 6), 2: one((2.0, 0.0))}]
    samples = [{1: one((1.0, 0.0)), 2: one((1.0, 0.0))}, {1: one((1.0, 0.0))}]
    assert influence("tracin-we-k", queries, [{2: one((1.0, 0.0))}], 1).tolist() == [[2.0]]
    assert influence("tracin-we-k", queries, samples, 1).tolist() == [[0.0, 0.0]]
    # Per pair, the second sample shares but the one word, and that is kept.
    assert influence("tracin-we-k-pair", queries, samples, 1).tolist() == [[0.0, 6.0]]


def test_of_equal_words_the_smaller_token_is_kept():
    queries = [{7: one((1.0, 0.0)), 3: one((0.0, 2.0), 2), 5: one((-3.0, 0.0), 3)}]
    for token, value in ((3, 2.0), (5, 0.0), (7, 0.0)):
        assert influence("tracin-we-k", queries, [{token: one((1.0, 1.0))}], 1).tolist() == [[value]]


def test_ten_words_unless_told_otherwise():
    rows = torch.arange(14, 0, -1, dtype=torch.float64)[:, None]
    words = SparseGradients(rows, torch.arange(14), torch.ones(14, dtype=torch.int64), torch.tensor([0, 14]), 14)
    block = GradientBlock(words, words)
    assert tracin_we(block).item() == sum(i * i for i in range(1, 15))
    for select in SELECTING.values():
        assert select(block).item() == sum(i * i for i in range(5, 15))


@each_selection
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_storage(name: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    samples = [
        {t: one(tuple(torch.randn(2, generator=generator).to(dtype).tolist()), 1 + t % 3) for t in range(i % 3, 9)}
        for i in range(12)
    ]
    block = GradientBlock(held(samples[:4], dtype), held(samples[4:], dtype))
    found = SELECTING[name](block, 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected_influence(name, samples[:4], samples[4:], 3), rtol=0, atol=1e-5)
