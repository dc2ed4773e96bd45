"""How well models classify, with intervals, and the difference of two models on the same samples."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped
from scipy.stats import binomtest

from undertow.metrics.intervals import Interval, percentiles, resamples

__all__ = ["Interval", "McNemar", "accuracy", "accuracy_difference", "classification_table", "mcnemar"]


def accuracy(correct: Bool[np.ndarray, " n"]) -> Interval:
    """Share of correct predictions, with Wilson's interval."""
    result = binomtest(int(correct.sum()), len(correct))
    interval = result.proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(float(result.statistic), float(interval.low), float(interval.high))


def accuracy_difference(after: Bool[np.ndarray, " n"], before: Bool[np.ndarray, " n"]) -> Interval:
    """Accuracy after minus accuracy before on the same samples, with Wald's interval for paired shares."""
    n = len(after)
    gained, lost = int((after & ~before).sum()), int((~after & before).sum())
    difference = (gained - lost) / n
    error = 1.96 * np.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    return Interval(difference, float(difference - error), float(difference + error))


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two models on the same samples.

    Attributes:
        only_first: samples that only the first model predicts correctly.
        only_second: samples that only the second does.
        p_value: exact and two-sided; small where the models differ.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> McNemar:
    """Are two models equally often correct? Exact: binomial over the samples on which they differ (McNemar 1947)."""
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p_value)


def classification_table(
    predicted: Shaped[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    *,
    positive: object = None,
    times: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy, F1 and Matthews' correlation with 95% intervals; columns value, low and high.

    Rows: accuracy; F1 macro, the mean over the classes that are labelled or predicted; F1, of the class ``positive``
    where one is given; Matthews, 0 where labels or predictions are all alike. F1 of a class without a correct
    prediction is 0.

    Intervals are the bootstrap's, over samples drawn without regard to class, but for accuracy, whose interval is
    Wilson's.

    Raises:
        ValueError: when there is no sample, or ``positive`` is no class of labels or predictions.
    """
    if not len(labels):
        raise ValueError("no sample, so nothing to measure")
    classes, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    if positive is not None and positive not in classes:
        raise ValueError(f"{positive!r} is none of the classes {', '.join(map(str, classes))}")
    of_label, of_prediction = codes[: len(labels)], codes[len(labels) :]
    place = None if positive is None else int(np.flatnonzero(classes == positive)[0])

    def measures(rows: np.ndarray) -> list[float]:
        confusion = np.bincount(of_label[rows] * len(classes) + of_prediction[rows], minlength=len(classes) ** 2)
        return _measures(confusion.reshape(len(classes), -1), place)

    value = measures(np.arange(len(labels)))
    drawn = np.array([measures(rows) for rows in resamples(len(labels), times=times, seed=seed)])
    names = ["F1 macro", *(["F1"] if place is not None else []), "Matthews"]
    table = {"accuracy": accuracy(predicted == labels)}
    table |= {name: percentiles(value[i], drawn[:, i]) for i, name in enumerate(names)}
    return pd.DataFrame([(i.value, i.low, i.high) for i in table.values()], list(table), ["value", "low", "high"])


def _measures(confusion: Int[np.ndarray, "label prediction"], positive: int | None) -> list[float]:
    """F1 macro, F1 of the positive class where there is one, and Matthews' correlation (Gorodkin 2004)."""
    counts = confusion.astype(np.float64)
    hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    there, n = labelled + predicted > 0, counts.sum()
    f1 = np.divide(2 * hits, labelled + predicted, out=np.zeros(len(hits)), where=there)
    spread = (n**2 - (labelled**2).sum()) * (n**2 - (predicted**2).sum())
    matthews = (n * hits.sum() - labelled @ predicted) / np.sqrt(spread) if spread > 0 else 0.0
    return [float(f1[there].mean()), *([float(f1[positive])] if positive is not None else []), float(matthews)]
