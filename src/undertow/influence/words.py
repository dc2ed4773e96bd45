"""Which words of a sample its influence through the word embeddings comes from."""

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from undertow.gradients.matrices import SparseGradients, slices


def word_influence(
    queries: SparseGradients, samples: SparseGradients, chosen: Bool[Tensor, " q"] | None = None
) -> Float[Tensor, " r"]:
    """What each distinct token of each sample adds to its TracIn-WE, averaged over queries.

    For a token w of sample x: mean over x' of <dl(x')/dE_w, dl(x)/dE_w>; positive = helpful. Over the tokens of
    a sample it adds up to the mean over queries of TracIn-WE (Yeh et al. 2022).

    Args:
        queries: embedding gradients of the queries.
        samples: embedding gradients of the samples; one value for each of their rows [r] is returned.
        chosen: which queries count; all by default.
    """
    mask = torch.ones(queries.samples, dtype=torch.bool) if chosen is None else chosen
    rows = mask[queries.owners]
    tokens, places = torch.unique(queries.tokens[rows], return_inverse=True)
    mean = torch.zeros(len(tokens), queries.values.shape[1], dtype=queries.dtype)
    mean.index_add_(0, places, queries.values[rows].to(queries.dtype)).div_(max(int(mask.sum()), 1))
    result = torch.zeros(len(samples.tokens), dtype=samples.dtype)
    if len(tokens):
        found = torch.searchsorted(tokens, samples.tokens).clamp_max(len(tokens) - 1)
        shared = torch.nonzero(tokens[found] == samples.tokens).flatten()
        for rows_ in slices(len(shared), samples.values.shape[1]):
            part = shared[rows_]
            result[part] = (mean[found[part]] * samples.values[part].to(samples.dtype)).sum(1)
    return result


def word_dataset(queries: SparseGradients, samples: SparseGradients, chosen: Bool[Tensor, " q"]) -> xr.Dataset:
    """`word_influence` with the sample, the token and the number of occurrences of each value, along ``word``."""
    values = word_influence(queries, samples, chosen)
    return xr.Dataset(
        {
            "word_influence": ("word", values.float().numpy()),
            "word_sample": ("word", samples.owners.numpy()),
            "word_token": ("word", samples.tokens.numpy()),
            "word_count": ("word", samples.counts.numpy()),
        }
    )
