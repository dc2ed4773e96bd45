"""Gradients of a small model's modules, as if they had been collected."""

from collections.abc import Sequence

import numpy as np
import torch

from undertow.gradients.layouts import Layout
from undertow.gradients.matrices import DenseGradients, FactoredGradients, Gradients, SparseGradients
from undertow.gradients.store import GradientStore
from undertow.models.keys import ModuleKey

KEYS = (
    ModuleKey("embeddings.word_embeddings", None, "word_embeddings", "weight", "embedding", 24, trained=False),
    ModuleKey("encoder.layer.0.query.lora_A", 0, "query", "lora_A", "attention", 6),
    ModuleKey("encoder.layer.11.output.dense", 11, "output", "weight", "mlp", 12, trained=False),
    ModuleKey("classifier", None, "classifier", "weight", "head", 5),
)
QUERY_ROWS, SAMPLE_ROWS = np.array([7, 3, 8]), np.array([10, 0, 2, 55, 4])


class HeldStore(GradientStore):
    """A store whose gradients are given."""

    def __init__(self, matrices: Sequence[Gradients], keys: Sequence[ModuleKey] = KEYS) -> None:
        self.layouts = tuple(Layout(key, "dense", "linear", key.size, 1) for key in keys)
        self.samples = matrices[0].samples
        self._matrices = list(matrices)

    def __getitem__(self, module: int) -> Gradients:
        return self._matrices[module]


def held_store(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> HeldStore:
    """n samples: the embedding by its tokens, the dense layer of the encoder by its factors, the rest dense."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tokens = [torch.randperm(8, generator=generator)[: 2 + i % 3].sort().values for i in range(n)]
    rows = torch.cat(tokens)
    counts = torch.ones_like(rows)
    words = SparseGradients(noise(len(rows), 3), rows, counts, torch.tensor([0, *map(len, tokens)]).cumsum(0), 8)
    units = torch.tensor([0, *(1 + i % 3 for i in range(n))]).cumsum(0)
    factors = FactoredGradients(noise(int(units[-1]), 4), noise(int(units[-1]), 3), units)
    return HeldStore([words, DenseGradients(noise(n, 6)), factors, DenseGradients(noise(n, 5))])


def both_stores(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[HeldStore, HeldStore]:
    """Queries and samples."""
    return held_store(len(QUERY_ROWS), seed, dtype), held_store(len(SAMPLE_ROWS), seed + 100, dtype)


def dense(store: HeldStore, module: int) -> np.ndarray:
    return store[module].rows(slice(0, store.samples)).double().numpy()
