"""What words contribute, against TracIn-WE itself and against loops."""

import pytest
import torch

from undertow.gradients.matrices import SparseGradients
from undertow.influence.products import inner
from undertow.influence.words import word_dataset, word_influence

WIDTH, VOCABULARY = 3, 12


def sparse(texts: list[list[int]], seed: int) -> SparseGradients:
    """Random rows for the distinct tokens of some texts."""
    generator = torch.Generator().manual_seed(seed)
    distinct = [sorted(set(text)) for text in texts]
    tokens = torch.tensor([t for some in distinct for t in some], dtype=torch.int64)
    counts = torch.tensor(
        [text.count(t) for text, some in zip(texts, distinct, strict=True) for t in some], dtype=torch.int64
    )
    starts = torch.tensor([0, *[len(some) for some in distinct]]).cumsum(0)
    values = torch.randn(len(tokens), WIDTH, generator=generator, dtype=torch.float64)
    return SparseGradients(values, tokens, counts, starts, VOCABULARY)


QUERIES = sparse([[1, 2, 2], [5], [2, 7, 9]], 0)
SAMPLES = sparse([[2, 1, 1], [], [11, 3], [7, 5, 2, 2]], 1)


def test_words_add_up_to_the_mean_over_queries():
    found = word_influence(QUERIES, SAMPLES)
    total = torch.zeros(SAMPLES.samples, dtype=torch.float64).index_add_(0, SAMPLES.owners, found)
    torch.testing.assert_close(total, inner(QUERIES, SAMPLES).mean(0), rtol=1e-12, atol=1e-12)


def test_each_word_by_itself():
    found = word_influence(QUERIES, SAMPLES)
    for row, token in enumerate(SAMPLES.tokens.tolist()):
        rows = [i for i, other in enumerate(QUERIES.tokens.tolist()) if other == token]
        expected = sum(float(QUERIES.values[i] @ SAMPLES.values[row]) for i in rows) / QUERIES.samples
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)


def test_chosen_queries_alone():
    chosen = torch.tensor([True, False, True])
    found = word_influence(QUERIES, SAMPLES, chosen)
    total = torch.zeros(SAMPLES.samples, dtype=torch.float64).index_add_(0, SAMPLES.owners, found)
    torch.testing.assert_close(total, inner(QUERIES, SAMPLES)[chosen].mean(0), rtol=1e-12, atol=1e-12)


def test_queries_without_words():
    nothing = sparse([[], []], 2)
    assert word_influence(nothing, SAMPLES).tolist() == [0.0] * len(SAMPLES.tokens)


def test_dataset_says_whose_word_it_is():
    found = word_dataset(QUERIES, SAMPLES, torch.ones(3, dtype=torch.bool))
    assert found["word_sample"].values.tolist() == [0, 0, 2, 2, 3, 3, 3]
    assert found["word_token"].values.tolist() == [1, 2, 3, 11, 2, 5, 7]
    assert found["word_count"].values.tolist() == [2, 1, 1, 1, 2, 1, 1]
