"""Sums over the units of each sample, for many samples at a time.

Small samples of equally many units are put together, so nothing is padded and no product is taken across samples.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Numbers that the factors of a small sample take at most: copying larger ones takes longer than it saves.
_SMALL = 2**15
# Numbers, factors and products, that are worked on at once: 4 MB in float32.
_AT_ONCE = 2**20
# Where fewer samples than this fit, each is worked on where it lies.
_WORTH = 8


def squared_norms(
    inputs: Float[Tensor, "units i"],
    deltas: Float[Tensor, "units o"],
    starts: Int[Tensor, " n1"],
    *,
    bias: bool,
    dtype: torch.dtype,
) -> Float[Tensor, " n"]:
    """Squared norm of the sum of delta x^T over the units of each sample, in float64, x with a 1 where there is a bias.

    It is the sum over pairs of units of <x, x'> <delta, delta'>, multiplied in ``dtype``.
    """
    found = torch.zeros(len(starts) - 1, dtype=torch.float64)
    together, alone = _parted(starts, inputs.shape[1] + deltas.shape[1], lambda units: units**2)
    for chosen, places in together:
        x, delta = inputs[places].to(dtype), deltas[places].to(dtype)
        pairs = torch.bmm(x, x.transpose(1, 2)).add_(int(bias)).mul_(torch.bmm(delta, delta.transpose(1, 2)))
        found[chosen] = pairs.sum((1, 2), dtype=torch.float64)
    for sample, units in alone:
        x, delta = inputs[units].to(dtype), deltas[units].to(dtype)
        found[sample] = (x @ x.T).add_(int(bias)).mul_(delta @ delta.T).sum(dtype=torch.float64)
    return found.clamp_min(0)


def outer_sums(
    left: Float[Tensor, "units l"],
    right: Float[Tensor, "units r"],
    starts: Int[Tensor, " n1"],
    out: Float[Tensor, "n l r"],
) -> None:
    """Write the sum of left right^T over the units of each sample to ``out``, in its precision."""
    if bool((starts.diff() == 1).all()):
        torch.mul(left.to(out.dtype)[:, :, None], right.to(out.dtype)[:, None, :], out=out)
        return
    rows, columns = left.shape[1], right.shape[1]
    together, alone = _parted(starts, rows + columns, lambda _: rows * columns)
    for chosen, places in together:
        out[chosen] = torch.bmm(left[places].to(out.dtype).transpose(1, 2), right[places].to(out.dtype))
    for sample, units in alone:
        torch.mm(left[units].to(out.dtype).T, right[units].to(out.dtype), out=out[sample])


def _parted(
    starts: Int[Tensor, " n1"], features: int, product: Callable[[int], int]
) -> tuple[list[tuple[Int[Tensor, " b"], Int[Tensor, "b u"]]], list[tuple[int, slice]]]:
    """Samples of equally many units with the places of these, as many as may be worked on at once; and all others.

    ``features`` is what a unit takes, ``product`` says what is made of a sample of so many units.
    """
    counts, bounds = starts.diff(), starts.tolist()
    order = torch.argsort(counts, stable=True)
    distinct, sizes = torch.unique_consecutive(counts[order], return_counts=True)
    together, alone = [], []
    for units, some in zip(distinct.tolist(), torch.split(order, sizes.tolist()), strict=True):
        factors = units * features
        fitting = _AT_ONCE // max(factors + product(units), 1)
        if factors <= _SMALL and fitting >= _WORTH:
            parts = ((chosen, starts[chosen]) for chosen in torch.split(some, fitting))
            together += [(chosen, first[:, None] + torch.arange(units)) for chosen, first in parts]
        else:
            alone += some.tolist()
    return together, [(sample, slice(bounds[sample], bounds[sample + 1])) for sample in sorted(alone)]
