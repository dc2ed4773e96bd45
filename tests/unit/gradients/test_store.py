"""The gradient store: memory or files, and its budget."""

import pytest
import torch

from undertow.errors import ConfigError
from undertow.gradients.store import GradientStore
from undertow.models.keys import ModuleKey

KEYS = [ModuleKey(f"m{size}", 0, "query", "lora_A", "attention", size) for size in (2, 5)]


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path) -> GradientStore:
    return GradientStore(KEYS, 4, memory=None if request.param == "memory" else 0, folder=tmp_path / "a" / "b")


def test_starts_at_zero_and_adds(store):
    assert len(store) == 2
    assert [tuple(store[i].shape) for i in range(2)] == [(4, 2), (4, 5)]
    store.add(0, torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    store.add(0, torch.tensor([2]), torch.tensor([[10.0, 20.0]]))
    assert store[0].tolist() == [[3, 4], [0, 0], [11, 22], [0, 0]]
    assert store[1].abs().sum() == 0


def test_wider_gradients_are_narrowed_at_the_door(store):
    store.add(1, torch.tensor([1]), torch.full((1, 5), 0.5, dtype=torch.float64))
    assert store[1].dtype == torch.float32
    assert store[1][1].tolist() == [0.5] * 5


def test_old_files_do_not_leak_into_a_new_store(tmp_path):
    for _ in range(2):
        store = GradientStore(KEYS, 4, folder=tmp_path, memory=0)
        assert store[0].abs().sum() == 0
        store.add(0, torch.arange(4), torch.ones(4, 2))


def test_budget():
    size = 4 * (2 + 5) * 4
    assert GradientStore(KEYS, 4, memory=size).bytes == size
    with pytest.raises(ConfigError, match=r"more than the budget of 0\.0 GB.*Pass a folder"):
        GradientStore(KEYS, 4, memory=size - 1)
    assert GradientStore(KEYS, 4, dtype=torch.float64).bytes == 2 * size
