"""Noise rates of sources, such as annotators: by empirical Bayes, from the probabilities of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_RATES = (np.arange(400) + 0.5) / 400
# Rows of prior weight that are tried: from sources that differ as they like to sources that are all alike.
_WEIGHTS = np.geomspace(2, 500, 12)
_EDGE = 1e-6


@dataclass(frozen=True)
class SourceRate:
    """How many labels of a source are wrong.

    Attributes:
        name: of the source.
        rows: its number of rows.
        rate: posterior mean of its share of wrong labels.
        low: lower end of the 95% credible interval.
        high: upper end.
    """

    name: str
    rows: int
    rate: float
    low: float
    high: float


def source_rates(wrong: Float[np.ndarray, " row"], sources: Sequence[str]) -> list[SourceRate]:
    """The share of wrong labels of each source, the worst first.

    The probability of a row holds the share of all rows; what is left without it is the row's evidence. A source of
    rate r has the likelihood prod_i (r b_i + (1 - r) g_i) with b_i / g_i the odds of a row over the odds of all rows.
    Rates have a Beta prior around the overall share, whose weight in rows maximises the marginal likelihood (empirical
    Bayes, Robbins 1956). The evidence of the rows is taken as given; its own error is not in the interval.

    Args:
        wrong: probability of each row to be wrong, not yet informed by sources.
        sources: source of each row.
    """
    names, counts, posterior = _posteriors(wrong, sources)
    found = []
    for name, rows, density in zip(names, counts, posterior, strict=True):
        summed = np.cumsum(density)
        low, high = (float(_RATES[np.searchsorted(summed, level)]) for level in (0.025, 0.975))
        found.append(SourceRate(name, rows, float(density @ _RATES), low, high))
    return sorted(found, key=lambda source: (-source.rate, source.name))


def informed_by_source(wrong: Float[np.ndarray, " row"], sources: Sequence[str]) -> Float[np.ndarray, " row"]:
    """Probability of each row to be wrong with the rate of its source as prior, in place of the overall share.

    Within a source the order of rows stays as it is. A row of probability 0 or 1 keeps it.
    """
    names, _, posterior = _posteriors(wrong, sources)
    rate = dict(zip(names, np.clip(posterior @ _RATES, _EDGE, 1 - _EDGE).tolist(), strict=True))
    overall = float(np.clip(wrong.mean(), _EDGE, 1 - _EDGE))
    own = np.array([rate[source] for source in sources])
    lift = own / (1 - own) / (overall / (1 - overall))
    result: np.ndarray = wrong * lift / (wrong * lift + 1 - wrong)
    return result


def _posteriors(
    wrong: Float[np.ndarray, " row"], sources: Sequence[str]
) -> tuple[list[str], list[int], Float[np.ndarray, "source rate"]]:
    """Names, numbers of rows, and posterior of the rate of each source over a grid."""
    names, place = np.unique(np.array(sources, dtype=object), return_inverse=True)
    overall = float(np.clip(wrong.mean(), _EDGE, 1 - _EDGE))
    some = np.clip(wrong, _EDGE, 1 - _EDGE)
    bad, good = some / overall, (1 - some) / (1 - overall)
    likelihood = np.zeros((len(names), len(_RATES)))
    for start in range(0, len(some), 4096):
        part = slice(start, start + 4096)
        values = np.log(_RATES * bad[part, None] + (1 - _RATES) * good[part, None])
        np.add.at(likelihood, place[part], values)
    prior = _log_prior(likelihood, overall)
    posterior = likelihood + prior
    posterior = np.exp(posterior - posterior.max(axis=1, keepdims=True))
    counts = np.bincount(place, minlength=len(names))
    return names.tolist(), counts.tolist(), posterior / posterior.sum(axis=1, keepdims=True)


def _log_prior(likelihood: Float[np.ndarray, "source rate"], overall: float) -> Float[np.ndarray, " rate"]:
    """Beta prior around the overall share, of the weight that makes all sources most likely."""
    from scipy.special import logsumexp
    from scipy.stats import beta

    priors = [beta.logpdf(_RATES, weight * overall, weight * (1 - overall)) for weight in _WEIGHTS]
    priors = [prior - logsumexp(prior) for prior in priors]
    marginal = [logsumexp(likelihood + prior, axis=1).sum() for prior in priors]
    best: np.ndarray = priors[int(np.argmax(marginal))]
    return best
