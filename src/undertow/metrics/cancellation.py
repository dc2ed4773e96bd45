"""Cancellation: how far the gradients of single samples undo one another in their sum (Yeh et al. 2022)."""

from dataclasses import astuple, dataclass, fields

import numpy as np
from jaxtyping import Float

# Beyond this ratio a sum in float64 cannot be told from rounding, and counts as zero.
LARGEST = 1e12


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
        max: the largest finite one.
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

    def row(self) -> dict[str, float]:
        """Attributes by name, for a table."""
        return dict(zip(CANCELLATION_COLUMNS, astuple(self), strict=True))


CANCELLATION_COLUMNS = tuple(field.name for field in fields(Cancellation))


def weight_cancellation(absolute: Float[np.ndarray, " d"], signed: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Σ_i |∂ℓ_i/∂w| / |Σ_i ∂ℓ_i/∂w| of each weight: infinite where only the sum is 0, NaN where all terms are.

    A ratio above `LARGEST` counts as infinite.
    """
    size = np.abs(signed)
    ratios = np.full(len(absolute), np.inf)
    # Compared by a product: a quotient by the smallest numbers would overflow.
    np.divide(absolute, size, out=ratios, where=size * LARGEST > absolute)
    ratios[absolute == 0] = np.nan
    return ratios


def cancellation(
    absolute: Float[np.ndarray, " d"], signed: Float[np.ndarray, " d"], *, untouched: int = 0
) -> Cancellation:
    """Cancellation of a set of weights from what its gradients add up to.

    Args:
        absolute: Σ_i |∂ℓ_i/∂w| of each weight.
        signed: Σ_i ∂ℓ_i/∂w of each weight.
        untouched: number of weights beside these that no sample touches.

    Raises:
        ValueError: when a sum is not finite, or the absolute value of a sum exceeds the sum of absolute values.
    """
    if not (np.isfinite(absolute).all() and np.isfinite(signed).all()):
        raise ValueError("sums of gradients must be finite")
    if (np.abs(signed) > absolute * (1 + 1e-6)).any():
        raise ValueError("the absolute value of a sum exceeds the sum of the absolute values")
    ratios = weight_cancellation(absolute, signed)
    touched = ratios[~np.isnan(ratios)]
    finite, count = touched[np.isfinite(touched)], len(touched)
    whole, size = float(absolute.sum()), float(np.abs(signed).sum())
    spread = (finite.mean(), finite.std(), np.median(finite), finite.min(), finite.max()) if len(finite) else [np.nan] * 5
    return Cancellation(
        count,
        untouched + len(absolute) - count,
        whole / size if size * LARGEST > whole else (np.inf if count else np.nan),
        *map(float, spread),
        infinite=1 - len(finite) / count if count else np.nan,
    )
