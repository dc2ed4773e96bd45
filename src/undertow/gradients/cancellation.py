"""What the gradients of all samples add up to, weight by weight, as they are and as absolute values."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from undertow.gradients.matrices import DenseGradients, FactoredGradients, Gradients, SparseGradients, slices

# Numbers of a block that is read at once: 8 MB in float64. Larger ones leave the processor's cache.
_READ = 1_000_000
# Weights of a factored layer whose sums are made at once, for the same reason.
_NUMBERS = 65_536


@dataclass(frozen=True)
class WeightSums:
    """Sums over the samples for each weight, in float64.

    Attributes:
        absolute: Σ_i |∂ℓ_i/∂w|, [weights].
        signed: Σ_i ∂ℓ_i/∂w, [weights].
        untouched: weights beside these that no sample touches: rows of word embeddings.
    """

    absolute: Float[Tensor, " w"]
    signed: Float[Tensor, " w"]
    untouched: int = 0


def weight_sums(gradients: Gradients) -> WeightSums:
    """Sums over all samples of one module; memory does not grow with their number."""
    if isinstance(gradients, DenseGradients):
        return _dense(gradients)
    if isinstance(gradients, SparseGradients):
        return _sparse(gradients)
    return _factored(gradients)


def is_cheap(gradients: Gradients) -> bool:
    """Whether the sums cost no more than reading the gradients once: not so for factors of several units a sample."""
    return not isinstance(gradients, FactoredGradients) or gradients.single


def _dense(gradients: DenseGradients) -> WeightSums:
    absolute, signed = torch.zeros(2, gradients.size, dtype=torch.float64)
    for rows in slices(gradients.samples, gradients.size, _READ):
        block = gradients.values[rows].to(torch.float64, copy=True)
        signed += block.sum(0)
        absolute += block.abs_().sum(0)
    return WeightSums(absolute, signed)


def _sparse(gradients: SparseGradients) -> WeightSums:
    tokens, places = torch.unique(gradients.tokens, return_inverse=True)
    width = gradients.values.shape[1]
    absolute, signed = torch.zeros(2, len(tokens), width, dtype=torch.float64)
    for rows in slices(len(gradients.values), width, _READ):
        block = gradients.values[rows].to(torch.float64, copy=True)
        signed.index_add_(0, places[rows], block)
        absolute.index_add_(0, places[rows], block.abs_())
    return WeightSums(absolute.flatten(), signed.flatten(), (gradients.vocabulary - len(tokens)) * width)


def _factored(gradients: FactoredGradients) -> WeightSums:
    """A bias counts as one more input."""
    features, outputs = gradients.inputs.shape[1] + gradients.bias, gradients.deltas.shape[1]
    absolute, signed = torch.zeros(2, outputs, features, dtype=torch.float64)
    units = len(gradients.inputs) / max(gradients.samples, 1)
    for samples in slices(gradients.samples, units * (features + outputs), _READ):
        x, delta = gradients.units(samples)
        if gradients.single:  # |delta x^T| = |delta| |x|^T, so both sums are one product
            signed += delta.double().T @ x.double()
            absolute += delta.abs().double().T @ x.abs().double()
            continue
        starts = (gradients.starts[samples.start : samples.stop + 1] - gradients.starts[samples.start]).tolist()
        for columns in slices(outputs, features, _NUMBERS):
            for first, last in pairwise(starts):
                product = delta[first:last, columns].T @ x[first:last]
                signed[columns] += product
                absolute[columns] += product.abs_()
    return WeightSums(absolute.flatten(), signed.flatten())
