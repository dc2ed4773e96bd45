"""Inner products of gradients, in whichever form they are held; never an n x n matrix unless it is asked for.

All results are exact: which way is taken depends on what it costs for the shapes at hand, and says nothing
about the value but its last digits.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.gradients.matrices import (
    DenseGradients,
    FactoredGradients,
    Gradients,
    SparseGradients,
    TokenOrder,
    slices,
)
from undertow.influence.scratch import Scratch
from undertow.models.kernels import times_transposed

Way = Literal["factors", "blocks"]

# Numbers of a block of unit pairs or parameters that is worked on at once: 128 MB in float32.
_NUMBERS = 32_000_000


def inner(left: Gradients, right: Gradients, out: Tensor | None = None) -> Float[Tensor, "m n"]:
    """<a_i, b_j> for every gradient a of ``left`` and b of ``right``, both of one module.

    ``out``: memory that may be used for the result, [m, n].
    """
    if isinstance(left, DenseGradients) and isinstance(right, DenseGradients):
        return _dense_inner(left, right, out)
    if isinstance(left, FactoredGradients) and isinstance(right, FactoredGradients):
        return _by_factors(left, right) if way(left, right) == "factors" else _by_outputs(left, right)
    if isinstance(left, SparseGradients) and isinstance(right, SparseGradients):
        return _sparse_inner(left, right)
    raise TypeError(f"gradients of two forms, {type(left).__name__} and {type(right).__name__}, have no product here")


def gram_product(
    weights: Float[Tensor, "q n"], samples: Gradients, scratch: Scratch | None = None
) -> Float[Tensor, "q n"]:
    """W G G^T for weights W [q, n] and gradients G [n, d], multiplied in the order that is cheap.

    O(q n d) and no n x n matrix (W G is [q, d], or a block of its columns at a time), except where a layer sees
    one vector a sample: there blocks of G G^T cost less than G itself.
    """
    if isinstance(samples, DenseGradients):
        take = scratch or Scratch()
        combined = take("combined", len(weights), samples.size, dtype=samples.dtype).zero_()
        for block in slices(samples.samples, samples.size):
            combined += times_transposed(weights[:, block], samples.rows(block).T)
        return _dense_inner(DenseGradients(combined), samples)
    if isinstance(samples, SparseGradients):
        return _sparse_gram_product(weights, samples)
    return _factored_gram_product(weights, samples)


def gram(samples: Gradients) -> Float[Tensor, "n n"]:
    """All inner products of the samples with each other."""
    return inner(samples, samples)


def way(left: FactoredGradients, right: FactoredGradients) -> Way:
    """Which way the inner products of two factored gradients are computed.

    "factors" multiplies every pair of units, [units, units'] for x and delta: m' n' (in + out) operations.
    "blocks" builds the gradients of some output features at a time and multiplies those: (m + n) units in out for
    building, m n in out for multiplying.
    """
    units = len(left.inputs), len(right.inputs)
    return cheaper(units, (left.samples, right.samples), left.inputs.shape[1], left.deltas.shape[1])[0]


def cheaper(units: tuple[int, int], samples: tuple[int, int], inputs: int, outputs: int) -> tuple[Way, float]:
    """The cheaper way for the inner products of two factored gradients, and its multiplications."""
    by_factors = float(units[0]) * units[1] * (inputs + outputs + 2)  # and two passes over the pairs to sum them
    by_blocks = (float(units[0]) + units[1] + float(samples[0]) * samples[1]) * inputs * outputs
    return ("factors", by_factors) if by_factors <= by_blocks else ("blocks", by_blocks)


def _dense_inner(left: DenseGradients, right: DenseGradients, out: Tensor | None = None) -> Tensor:
    result = torch.empty(left.samples, right.samples, dtype=left.dtype) if out is None else out
    for rows in slices(left.samples, left.size):
        mine = left.rows(rows)
        for columns in slices(right.samples, right.size):
            result[rows, columns] = times_transposed(mine, right.rows(columns))
    return result


def _by_factors(left: FactoredGradients, right: FactoredGradients) -> Tensor:
    result = torch.empty(left.samples, right.samples, dtype=left.dtype)
    across = slices(right.samples, len(right.inputs) / max(right.samples, 1), _NUMBERS**0.5)
    for rows in slices(left.samples, len(left.inputs) / max(left.samples, 1), _NUMBERS**0.5):
        x, delta = left.units(rows)
        owners = left.owners[int(left.starts[rows.start]) : int(left.starts[rows.stop])] - rows.start
        for columns in across:
            y, epsilon = right.units(columns)
            pairs = times_transposed(x, y).mul_(times_transposed(delta, epsilon))
            if not left.single:
                pairs = pairs.new_zeros(rows.stop - rows.start, len(y)).index_add_(0, owners, pairs)
            if not right.single:
                first, last = int(right.starts[columns.start]), int(right.starts[columns.stop])
                others = right.owners[first:last] - columns.start
                pairs = pairs.new_zeros(len(pairs), columns.stop - columns.start).index_add_(1, others, pairs)
            result[rows, columns] = pairs
    return result


def _by_outputs(left: FactoredGradients, right: FactoredGradients) -> Tensor:
    result = torch.zeros(left.samples, right.samples, dtype=left.dtype)
    for features in _output_blocks(right, left.samples + right.samples):
        result += times_transposed(left.outputs(slice(0, left.samples), features), right.outputs(_all(right), features))
    return result


def _output_blocks(gradients: FactoredGradients, rows: int) -> Iterator[slice]:
    yield from slices(gradients.deltas.shape[1], rows * (gradients.inputs.shape[1] + gradients.bias), 4 * _NUMBERS)


def _all(gradients: Gradients) -> slice:
    return slice(0, gradients.samples)


def _factored_gram_product(weights: Tensor, samples: FactoredGradients) -> Tensor:
    """Through blocks of output features, or through blocks of the gram matrix where that is cheaper."""
    cells = samples.inputs.shape[1] * samples.deltas.shape[1]
    features = samples.inputs.shape[1] + samples.deltas.shape[1]
    by_blocks = (len(samples.inputs) + 2 * len(weights) * samples.samples) * cells
    by_gram = len(samples.inputs) ** 2 * (features + 2) + len(weights) * samples.samples**2
    result = torch.zeros(len(weights), samples.samples, dtype=samples.dtype)
    if by_gram < by_blocks:
        for rows in slices(samples.samples, samples.samples, _NUMBERS):
            result += times_transposed(weights[:, rows], inner(samples.select(rows), samples).T)
        return result
    for features_ in _output_blocks(samples, samples.samples + len(weights)):
        block = samples.outputs(_all(samples), features_)
        result += times_transposed(times_transposed(weights, block.T), block)
    return result


def _shared_tokens(left: TokenOrder, right: TokenOrder) -> Iterator[tuple[slice, slice]]:
    """Rows of each token that occurs on both sides."""
    places = torch.searchsorted(right.tokens, left.tokens).clamp_max(max(len(right.tokens) - 1, 0))
    if not len(right.tokens):
        return
    both = torch.nonzero(right.tokens[places] == left.tokens).flatten().tolist()
    lefts, rights, others = left.starts.tolist(), right.starts.tolist(), places.tolist()
    for t in both:
        u = others[t]
        yield slice(lefts[t], lefts[t + 1]), slice(rights[u], rights[u + 1])


def _sparse_inner(left: SparseGradients, right: SparseGradients) -> Tensor:
    """The sum over shared tokens; a token's samples are distinct, so each product adds to its own cells."""
    result = torch.zeros(left.samples, right.samples, dtype=left.dtype)
    a, b = left.by_token, right.by_token
    for mine, theirs in _shared_tokens(a, b):
        block = a.values[mine] @ b.values[theirs].T
        rows, columns = a.owners[mine], b.owners[theirs]
        if len(rows) == 1:
            result[int(rows[0])].index_add_(0, columns, block[0])
        else:
            result.index_put_((rows[:, None], columns[None, :]), block, accumulate=True)
    return result


def _sparse_gram_product(weights: Tensor, samples: SparseGradients) -> Tensor:
    """Token by token: no [q, vocabulary * width] is ever built."""
    order = samples.by_token
    transposed = weights.T.contiguous()
    result = torch.zeros_like(transposed)
    starts = order.starts.tolist()
    for first, last in pairwise(starts):
        owners, values = order.owners[first:last], order.values[first:last]
        result.index_add_(0, owners, values @ (values.T @ transposed[owners]))
    return result.T.contiguous()
