"""What estimators see of one module."""

import pytest
import torch

from undertow.gradients.matrices import DenseGradients
from undertow.influence import products
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS

from .stores import KEYS, both_stores, dense


@pytest.mark.parametrize("module", range(len(KEYS)))
def test_products_and_norms_in_every_form(module: int):
    queries, samples = both_stores(dtype=torch.float64)
    block = GradientBlock(queries[module], samples[module])
    v, g = (torch.from_numpy(dense(store, module)) for store in (queries, samples))
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(block.inner, v @ g.T)
    torch.testing.assert_close(block.query_norms, v.norm(dim=1))
    torch.testing.assert_close(block.sample_norms, g.norm(dim=1))
    torch.testing.assert_close(block.sample_squares, g.square().sum(1))
    torch.testing.assert_close(block.gram_product(weights), weights @ g @ g.T)
    assert (block.count, block.size) == (5, KEYS[module].size)


def test_dense_tensors_are_taken_as_they_are():
    queries, samples = torch.randn(2, 3), torch.randn(4, 3)
    block = GradientBlock(queries, samples)
    assert isinstance(block.queries, DenseGradients)
    assert block.samples.values is samples
    torch.testing.assert_close(block.inner, queries @ samples.T)


def test_inner_products_are_computed_once_for_all_estimators(monkeypatch):
    calls = []

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        calls.append(1)
        return inner(*arguments, **options)

    inner = products.inner
    monkeypatch.setattr(products, "inner", counted)
    block = GradientBlock(torch.randn(3, 4), torch.randn(5, 4))
    for name in ("tracin", "cosine", "covariance", "datainf", "datainf0", "lissa"):
        ESTIMATORS[name](block)
    assert calls == [1]


def test_parts_of_the_queries():
    block = GradientBlock(torch.randn(5, 4), torch.randn(6, 4))
    assert block.query_chunks(6) == [slice(i, i + 1) for i in range(5)]
    assert block.query_chunks(13) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert block.query_chunks(0) == [slice(i, i + 1) for i in range(5)]
    assert block.of_queries(slice(0, 5)) is block
    part = block.of_queries(slice(2, 4))
    assert part.samples is block.samples
    torch.testing.assert_close(part.inner, block.inner[2:4])
    torch.testing.assert_close(part.query_norms, block.query_norms[2:4])


def test_what_the_samples_know_of_themselves_is_computed_once(monkeypatch):
    block = GradientBlock(torch.randn(4, 3), torch.randn(6, 3))
    squares = block.sample_squares
    for chunk in block.query_chunks(6):
        assert block.of_queries(chunk).sample_squares is squares
