"""TracIn on word embeddings: whole, and for the words that matter most to each sample."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from undertow.gradients.matrices import SparseGradients
from undertow.influence import products
from undertow.influence.block import GradientBlock

WORDS = 10


def tracin_we(block: GradientBlock) -> Float[Tensor, "q n"]:
    """Sum over the tokens w of both samples of <dl(x')/dE_w, dl(x)/dE_w>.

    Yeh et al. 2022, "First is Better Than Last for Language Data Influence". E are the input word embeddings;
    rows of absent tokens are zero, so this is the inner product of the two gradients.
    """
    return block.inner


def tracin_we_k(block: GradientBlock, words: int = WORDS) -> Float[Tensor, "q n"]:
    """TracIn-WE where each sample keeps only its ``words`` tokens of largest gradient norm per occurrence.

    The sum runs over the tokens that both kept, matched by identity (the sparse form of Yeh et al. 2022). The
    norm per occurrence is that of the token's row divided by how often the token occurs; of equal norms the
    smaller token id comes first.
    """
    queries, samples = (_sparse(side) for side in (block.queries, block.samples))
    return products.inner(queries.keep(_largest(queries, words)), samples.keep(_largest(samples, words)))


def tracin_we_k_pair(block: GradientBlock, words: int = WORDS) -> Float[Tensor, "q n"]:
    """The variant per pair: each side keeps its ``words`` largest among the tokens that the pair shares."""
    queries, samples = (_sparse(side) for side in (block.queries, block.samples))
    result = torch.zeros(queries.samples, samples.samples, dtype=queries.dtype)
    order, scores = samples.by_token, _per_occurrence(samples)[torch.argsort(samples.tokens, stable=True)]
    mine = _per_occurrence(queries)
    starts = queries.starts.tolist()
    for q, (first, last) in enumerate(pairwise(starts)):
        rows, which = _occurrences(queries.tokens[first:last], order.tokens, order.starts)
        owners, tokens = order.owners[rows], queries.tokens[first:last][which]
        both = (_place(owners, scores[rows], tokens) < words) & (
            _place(owners, mine[first:last][which], tokens) < words
        )
        rows, which, owners = rows[both], which[both], owners[both]
        values = (order.values[rows] * queries.values[first:last].to(queries.dtype)[which]).sum(1)
        result[q].index_add_(0, owners, values)
    return result


def _sparse(side: object) -> SparseGradients:
    if not isinstance(side, SparseGradients):
        raise TypeError(f"word embeddings have sparse gradients, these are {type(side).__name__}")
    return side


def _per_occurrence(gradients: SparseGradients) -> Float[Tensor, " r"]:
    return gradients.row_squares.sqrt() / gradients.counts


def _largest(gradients: SparseGradients, words: int) -> Bool[Tensor, " r"]:
    return _place(gradients.owners, _per_occurrence(gradients), gradients.tokens) < words


def _place(owners: Int[Tensor, " r"], scores: Float[Tensor, " r"], tokens: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """0-based place of each row among those of its owner, by falling score and then rising token."""
    order = torch.argsort(tokens, stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    order = order[torch.argsort(owners[order], stable=True)]
    _, inverse, counts = torch.unique_consecutive(owners[order], return_inverse=True, return_counts=True)
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]]) if len(counts) else counts
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - first[inverse]
    return place


def _occurrences(
    wanted: Int[Tensor, " k"], tokens: Int[Tensor, " t"], starts: Int[Tensor, " t1"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Rows of some tokens in a token order, and which of the wanted tokens each row has."""
    rows, which = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    if len(tokens):
        places = torch.searchsorted(tokens, wanted).clamp_max(len(tokens) - 1)
        for i in torch.nonzero(tokens[places] == wanted).flatten().tolist():
            here = torch.arange(int(starts[places[i]]), int(starts[places[i] + 1]))
            rows.append(here)
            which.append(torch.full_like(here, i))
    return torch.cat(rows), torch.cat(which)
