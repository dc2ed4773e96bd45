"""Linear datamodeling score: do attributions foretell what models trained on other subsets do?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from undertow.metrics.intervals import Interval, percentiles


@dataclass(frozen=True)
class DatamodelingScore:
    """The linear datamodeling score of one attribution.

    Attributes:
        mean: over the queries, with its 95% bootstrap interval over queries and subsets, both drawn anew.
        by_query: Spearman correlation of each query, [q].
    """

    mean: Interval
    by_query: Float[np.ndarray, " q"]


def datamodeling_score(
    attribution: Float[np.ndarray, "q n"],
    masks: Bool[np.ndarray, "s n"],
    outputs: Float[np.ndarray, "s q"],
    *,
    times: int = 1000,
    seed: int = 0,
) -> DatamodelingScore:
    """Spearman correlation over subsets of predicted and measured outputs, query by query (Park et al. 2023, TRAK).

    The prediction for a subset is the sum of the attributions of its samples: attribution @ masks.T.

    Args:
        attribution: of each sample to the output on each query; influence as it is: positive = helpful.
        masks: which samples each subset holds.
        outputs: measured on each query after training on each subset, higher = better: minus the loss.
        times: resamples of queries and subsets.
        seed: seed of the resamples.

    A query whose predictions, or outputs, are the same for all subsets scores 0: they foretell nothing.

    Raises:
        ValueError: when there are fewer than three subsets, or a number is not finite.
    """
    if len(masks) < 3:
        raise ValueError(f"a correlation over subsets needs three of them at least, not {len(masks)}")
    if not (np.isfinite(attribution).all() and np.isfinite(outputs).all()):
        raise ValueError("attributions and outputs must be finite")
    predicted = attribution.astype(np.float64) @ masks.T.astype(np.float64)
    measured = outputs.T.astype(np.float64)
    scores, means = _correlations(predicted, measured), np.empty(times)
    generator = np.random.default_rng(seed)
    for i in range(times):  # queries share the subsets, so that resampling them alone would promise too much
        drawn = np.ix_(*(generator.integers(0, length, length) for length in predicted.shape))
        means[i] = _correlations(predicted[drawn], measured[drawn]).mean()
    return DatamodelingScore(percentiles(float(scores.mean()), means), scores)


def _correlations(a: Float[np.ndarray, "q s"], b: Float[np.ndarray, "q s"]) -> Float[np.ndarray, " q"]:
    a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    sizes = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found: np.ndarray = np.divide((a * b).sum(1), sizes, out=np.zeros(len(a)), where=sizes > 0)
    return found
