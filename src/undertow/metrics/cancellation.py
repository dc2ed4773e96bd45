"""Cancellation: how far the gradients of single samples undo one another in their sum (Yeh et al. 2022)."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from jaxtyping import Float

# Beyond this ratio a sum in float64 cannot be told from rounding, and counts as zero.
LARGEST = 1e12


@dataclass(frozen=True)
class WeightCancellation:
    """Cancellation of each weight of a module.

    Attributes:
        ratios: Σ_i |∂ℓ_i/∂w| / |Σ_i ∂ℓ_i/∂w|, [weights] in float32; infinite where only the sum is 0, NaN where all
            terms are.
        absolute: Σ_w Σ_i |∂ℓ_i/∂w|.
        signed: Σ_w |Σ_i ∂ℓ_i/∂w|.
        untouched: number of weights beside these that no sample touches.
    """

    ratios: Float[np.ndarray, " d"]
    absolute: float
    signed: float
    untouched: int = 0


@dataclass(frozen=True)
class Cancellation:
    """Cancellation of a set of weights.

    Attributes:
        weights: number of weights that some sample touches; all that follows is of these.
        untouched: number of weights that no sample touches (0/0); they are left out.
        cancellation: Σ_w Σ_i |∂ℓ_i/∂w| / Σ_w |Σ_i ∂ℓ_i/∂w|, 1 = no cancellation; infinite where only the sums vanish.
        mean: mean of the finite ratios Σ_i |∂ℓ_i/∂w| / |Σ_i ∂ℓ_i/∂w| of single weights.
        std: their standard deviation (n in the divisor).
        median: their median.
        min: the smallest.
        max: the largest.
        infinite: share of the weights whose sum is zero while its terms are not.

    Numbers that are not defined, as where no weight is touched, are NaN.
    """

    weights: int
    untouched: int
    cancellation: float
    mean: float
    std: float
    median: float
    min: float
    max: float
    infinite: float

    def row(self) -> dict[str, int | float]:
        """Attributes by name, for a table."""
        return dict(zip(CANCELLATION_COLUMNS, astuple(self), strict=True))


CANCELLATION_COLUMNS = tuple(field.name for field in fields(Cancellation))


def weight_cancellation(
    absolute: Float[np.ndarray, " d"], signed: Float[np.ndarray, " d"], *, untouched: int = 0
) -> WeightCancellation:
    """Cancellation of each weight from what its gradients add up to. A ratio above `LARGEST` counts as infinite.

    Args:
        absolute: Σ_i |∂ℓ_i/∂w| of each weight, in float64.
        signed: Σ_i ∂ℓ_i/∂w of each weight, in float64.
        untouched: number of weights beside these that no sample touches.

    Raises:
        ValueError: when a sum is not finite, or the absolute value of a sum exceeds the sum of absolute values.
    """
    if not (np.isfinite(absolute).all() and np.isfinite(signed).all()):
        raise ValueError("sums of gradients must be finite")
    size = np.abs(signed)
    if (size > absolute * (1 + 1e-9)).any():  # beyond what rounding explains
        raise ValueError("the absolute value of a sum exceeds the sum of the absolute values")
    ratios = np.full(len(absolute), np.inf)
    # Compared by a product: a quotient by the smallest numbers would overflow.
    np.divide(absolute, size, out=ratios, where=size * LARGEST > absolute)
    ratios[absolute == 0] = np.nan
    return WeightCancellation(ratios.astype(np.float32), float(absolute.sum()), float(size.sum()), untouched)


def cancellation(parts: Sequence[WeightCancellation]) -> Cancellation:
    """Cancellation of all weights of some modules together."""
    ratios = np.concatenate([part.ratios for part in parts]) if parts else np.zeros(0, dtype=np.float32)
    touched = ratios[~np.isnan(ratios)]
    finite = touched[np.isfinite(touched)].astype(np.float64)
    absolute, signed = sum(part.absolute for part in parts), sum(part.signed for part in parts)
    whole = (absolute / signed if signed * LARGEST > absolute else np.inf) if len(touched) else np.nan
    measures = (np.mean, np.std, np.median, np.min, np.max)
    mean, std, median, low, high = (float(f(finite)) if len(finite) else np.nan for f in measures)
    return Cancellation(
        len(touched),
        sum(part.untouched for part in parts) + len(ratios) - len(touched),
        whole,
        mean,
        std,
        median,
        low,
        high,
        1 - len(finite) / len(touched) if len(touched) else np.nan,
    )
