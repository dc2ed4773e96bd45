"""Robust rank aggregation: how unlikely the low ranks of a sample are by chance."""

import numpy as np
from jaxtyping import Float, Int64, Integer
from scipy.special import betainc, betaln

# Below this, the share of a distribution is computed by its logarithm.
_SMALL = 1e-280


def robust_ranks(places: Integer[np.ndarray, "sample row"], samples: int) -> Float[np.ndarray, " sample"]:
    """ln(R ρ) of each sample over R rows: the logarithm of Bonferroni's bound on the p-value of its low ranks.

    Kolde et al. 2012, "Robust rank aggregation for gene list integration and meta-analysis": with u₁ ≤ … ≤ u_R the
    normalised ranks of a sample, sorted, ρ = min_k P(at least k of R uniform numbers are ≤ u_k). Consistently low ranks
    make it small. It is left above 0 where R ρ > 1, so that samples that are not significant keep their order.

    Args:
        places: number of samples with an influence at most as high, 1 to n; the normalised rank is its share of n. So
            a tie counts for the sample, never against it.
        samples: n.
    """
    ordered = np.sort(places, axis=1)
    count = ordered.shape[1]
    z = _signed_roots(ordered, samples)
    best = z.argmax(axis=1)
    here = np.arange(len(ordered))
    # ρ lies between the tails of a normal distribution at these two (Zubkov & Serov 2012); only places whose lower
    # bound is below the upper bound of the best one can be the minimum.
    bound = _signed_root(best / count, ordered[here, best] / samples, count)
    sample, k = np.nonzero(z >= bound[:, None] - 1e-6)
    tails = log_tail(k + 1, count, ordered[sample, k] / samples)
    result = np.zeros(len(ordered))
    np.minimum.at(result, sample, tails)
    result += float(np.log(count))
    return result


def log_tail(k: Int64[np.ndarray, " pair"], count: int, u: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """ln P(X >= k) for X binomial with ``count`` trials of probability u > 0; exact however small it is.

    Far out, P(X >= k) = P(X = k) Σ_j Π_{i<j} (count - k - i) / (k + 1 + i) · u / (1 - u): they fall geometrically.
    """
    share = betainc(k, count - k + 1, u)
    with np.errstate(divide="ignore"):
        result: np.ndarray = np.log(share)
    far = np.flatnonzero(share < _SMALL)
    if len(far) == 0:
        return result
    k, u = k[far].astype(np.float64), u[far]
    odds, term, total = u / (1 - u), np.ones(len(far)), np.ones(len(far))
    for i in range(count):
        term = term * (count - k - i) / (k + 1 + i) * odds
        term[term < 0] = 0  # past the last one
        total += term
        if (term <= 1e-17 * total).all():
            break
    choose = -np.log(count + 1) - betaln(count - k + 1, k + 1)
    result[far] = choose + k * np.log(u) + (count - k) * np.log1p(-u) + np.log(total)
    return result


def _signed_roots(ordered: Integer[np.ndarray, "sample row"], samples: int) -> Float[np.ndarray, "sample row"]:
    """z of every place: ±√(2 R KL(k/R ‖ u)), above 0 where the rank is lower than chance would have it."""
    count = ordered.shape[1]
    share = np.arange(1, count + 1) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.arange(samples + 1) / samples
        low, high = np.log(u), np.log1p(-u)
        rest = 1 - share
        entropy = share * np.log(share) + np.where(rest > 0, rest * np.log(rest), 0.0)
        divergence = entropy - share * low[ordered] - np.where(rest > 0, rest * high[ordered], 0.0)
    root: np.ndarray = np.sqrt(2 * count * np.maximum(divergence, 0))
    signed: np.ndarray = np.where(share >= u[ordered], root, -root)
    return signed


def _signed_root(
    share: Float[np.ndarray, " pair"], u: Float[np.ndarray, " pair"], count: int
) -> Float[np.ndarray, " pair"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(a > 0, a * (np.log(a) - np.log(b)), 0.0) for a, b in ((share, u), (1 - share, 1 - u))]
    root: np.ndarray = np.sqrt(2 * count * np.maximum(parts[0] + parts[1], 0))
    signed: np.ndarray = np.sign(share - u) * root
    return signed
