"""Influential data identification: does influence point at the samples of a query's own class?"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from undertow.metrics.noise import auroc, noise_detection


def identification(
    influence: Float[np.ndarray, "q n"],
    query_classes: Shaped[np.ndarray, " q"],
    sample_classes: Shaped[np.ndarray, " n"],
    *,
    absolute: bool = False,
) -> pd.DataFrame:
    """AUC and recall of "same class as the query" under each query's influence (Kwon et al. 2024, DataInf).

    A row for each query. auc: how often a sample of its class has more influence than one of another, ties half.
    recall: share of its class's s samples among the s of largest influence, ties in expectation.

    Args:
        influence: of each sample on each query, positive = helpful.
        query_classes: class of each query.
        sample_classes: class of each sample.
        absolute: order the samples by the size of their influence, whatever its sign.

    Raises:
        ValueError: when a query's class is that of no sample or of all, or an influence is NaN.
    """
    scores = np.abs(influence) if absolute else influence
    rows = []
    for score, name in zip(scores, query_classes, strict=True):
        same = sample_classes == name
        if not same.any() or same.all():
            raise ValueError(f"class {name!r} of a query is that of {'all samples' if same.any() else 'no sample'}")
        found = noise_detection(score, same).found[int(same.sum())]
        rows.append((auroc(score, same), float(found)))
    return pd.DataFrame(rows, columns=["auc", "recall"])


def identification_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation over the queries (n - 1 in the divisor) and their number, of auc and recall."""
    return pd.DataFrame({"mean": table.mean(), "std": table.std(), "queries": len(table)})
