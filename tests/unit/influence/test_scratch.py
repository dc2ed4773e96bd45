"""Memory that is used again."""

import pytest
import torch

from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.scratch import Scratch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_memory_for_the_same_name(dtype: torch.dtype):
    scratch = Scratch()
    first = scratch("a", 3, 4, dtype=dtype)
    assert (first.shape, first.dtype) == ((3, 4), dtype)
    assert scratch("a", 2, 5, dtype=dtype).data_ptr() == first.data_ptr()
    assert scratch("b", 3, 4, dtype=dtype).data_ptr() != first.data_ptr()
    assert scratch("a", 4, 4, dtype=dtype).shape == (4, 4)  # more than there was
    assert scratch("a", 0, 4, dtype=dtype).shape == (0, 4)


@pytest.mark.parametrize("name", ["tracin", "cosine", "datainf", "lissa"])
def test_blocks_that_share_it_give_what_others_give(name: str):
    torch.manual_seed(0)
    scratch = Scratch()
    for n in (7, 5, 9):
        queries, samples = torch.randn(3, 4), torch.randn(n, 4)
        expected = ESTIMATORS[name](GradientBlock(queries, samples))
        assert torch.equal(ESTIMATORS[name](GradientBlock(queries, samples, scratch=scratch)), expected)
