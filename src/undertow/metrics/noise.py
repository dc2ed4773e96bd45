"""How well a harm score finds samples that are known to be noisy.

True noise reaches metrics only. Ties are scored by their expectation under random order, so a constant
score gets what random order gets, and no measure depends on the order of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from undertow.metrics.intervals import percentiles, resamples


@dataclass(frozen=True)
class NoiseDetection:
    """The NDR curve of one harm score.

    Attributes:
        inspected: share of the samples inspected, most harmful first, [n + 1] from 0 to 1.
        found: share of all noisy samples among them, [n + 1] from 0 to 1.
        noisy: number of noisy samples.
    """

    inspected: Float[np.ndarray, " m"]
    found: Float[np.ndarray, " m"]
    noisy: int

    def ndr(self, share: float) -> float:
        """NDR@share: the share of all noisy samples among the most harmful ``share`` (0..1)."""
        return float(np.interp(share, self.inspected, self.found))

    def precision(self, share: float) -> float:
        """Share of noisy samples among the most harmful ``share`` (0..1), rounded to whole samples as a cut is.

        Raises:
            ValueError: when that is no sample.
        """
        flagged = round(share * (len(self.inspected) - 1))
        if not flagged:
            raise ValueError(f"a share of {share:g} of {len(self.inspected) - 1} samples is none of them")
        return float(self.found[flagged] * self.noisy / flagged)

    @property
    def auc(self) -> float:
        """AUC-NDR: area under the curve over that of the ideal curve; 1 = all noise first."""
        n = len(self.inspected) - 1
        return float(np.trapezoid(self.found, dx=1.0) / (n - self.noisy / 2))


def noise_detection(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> NoiseDetection:
    """NDR curve of a harm score (higher = worse) against the truth.

    Raises:
        ValueError: when no sample is noisy, as the rate is then not defined, or a harm is NaN.
    """
    _check(harm, noisy)
    return _curve(_runs(harm, noisy))


def ideal_detection(n: int, noisy: int) -> NoiseDetection:
    """The curve of a score that puts all noise first."""
    inspected = np.arange(n + 1)
    return NoiseDetection(inspected / n, np.minimum(inspected / noisy, 1.0), noisy)


def random_detection(n: int, noisy: int) -> NoiseDetection:
    """The expected curve of a random order."""
    inspected = np.arange(n + 1) / n
    return NoiseDetection(inspected, inspected, noisy)


def oracle_harm(noisy: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 for each sample known to be noisy, else 0: a control, never a method."""
    return noisy.astype(np.float64)


def auroc(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: how often a noisy sample has more harm than a clean one, ties half.

    Raises:
        ValueError: when no sample is noisy, none is clean, or a harm is NaN.
    """
    _check(harm, noisy)
    if noisy.all():
        raise ValueError("no sample is clean, so the area under the ROC curve is not defined")
    return _auroc(_runs(harm, noisy))


def average_precision(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> float:
    """Mean over the noisy samples of the precision down to each, most harmful first.

    Ties take the mean over all their orders, where scikit-learn takes them as one step. With t tied samples, m of
    them noisy, behind N others, P of them noisy, that adds Σ_j (m/t) (P + 1 + (j-1)(m-1)/(t-1)) / (N + j),
    j = 1..t: the j-th is noisy with probability m/t, and then so are (j-1)(m-1)/(t-1) of those before it.

    Raises:
        ValueError: when no sample is noisy, or a harm is NaN.
    """
    _check(harm, noisy)
    return _average_precision(_runs(harm, noisy))


def detection_table(
    harm: Float[np.ndarray, " n"],
    noisy: Bool[np.ndarray, " n"],
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.3),
    stratify: bool = True,
    times: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every measure of a harm score with its 95% bootstrap interval over the samples.

    Rows NDR@10, … and precision@10, … for each share, AUC-NDR, AUROC and average precision; columns value, low
    and high. A measure that is not defined (the AUROC where no sample is clean) is NaN.

    Args:
        harm: higher = worse.
        noisy: the truth.
        shares: where the harm is cut (0..1).
        stratify: draw noisy and clean samples apart, so that each resample has as many noisy ones as there are;
            otherwise their number varies too, and resamples without any are left out.
        times: number of resamples.
        seed: seed of the draws.

    Raises:
        ValueError: when no sample is noisy, a harm is NaN, or a share is no sample.
    """
    _check(harm, noisy)
    value = _measures(harm, noisy, shares)
    drawn = resamples(len(harm), strata=noisy if stratify else None, times=times, seed=seed)
    resampled = np.array([_measures(harm[rows], noisy[rows], shares) for rows in drawn]).reshape(times, len(value))
    found = [percentiles(float(v), column) for v, column in zip(value, resampled.T, strict=True)]
    named = [f"{name}@{100 * share:g}" for name in ("NDR", "precision") for share in shares]
    index = [*named, "AUC-NDR", "AUROC", "average precision"]
    return pd.DataFrame([(i.value, i.low, i.high) for i in found], index, ["value", "low", "high"])


@dataclass(frozen=True)
class _Runs:
    """Runs of tied samples, most harmful first: how many samples each holds, and how many noisy ones."""

    samples: Int[np.ndarray, " r"]
    noisy: Int[np.ndarray, " r"]


def _runs(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> _Runs:
    order = np.argsort(-harm, kind="stable")
    ordered = harm[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return _Runs(np.diff(starts, append=len(harm)), np.add.reduceat(noisy[order].astype(np.int64), starts))


def _curve(runs: _Runs) -> NoiseDetection:
    n, total = int(runs.samples.sum()), int(runs.noisy.sum())
    # Between the ends of a run of ties the expected count grows linearly.
    ends, hits = (np.concatenate([[0], counts.cumsum()]) for counts in (runs.samples, runs.noisy))
    return NoiseDetection(np.arange(n + 1) / n, np.interp(np.arange(n + 1), ends, hits) / total, total)


def _auroc(runs: _Runs) -> float:
    clean = runs.samples - runs.noisy
    behind = clean.sum() - clean.cumsum()
    return float((runs.noisy * (behind + clean / 2)).sum() / (runs.noisy.sum() * clean.sum()))


def _average_precision(runs: _Runs) -> float:
    t, m = runs.samples, runs.noisy
    before, found = t.cumsum() - t, m.cumsum() - m
    of = np.repeat(np.arange(len(t)), t)
    place = np.arange(len(of)) - before[of]  # j - 1
    expected = found[of] + 1 + place * (m[of] - 1) / np.maximum(t[of] - 1, 1)
    return float((m[of] / t[of] * expected / (np.arange(len(of)) + 1)).sum() / m.sum())


def _measures(
    harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"], shares: Sequence[float]
) -> Float[np.ndarray, " m"]:
    """In the order of `detection_table`; NaN where a measure is not defined."""
    if not noisy.any():
        return np.full(2 * len(shares) + 3, np.nan)
    runs = _runs(harm, noisy)
    curve = _curve(runs)
    rates = [curve.ndr(share) for share in shares], [curve.precision(share) for share in shares]
    areas = curve.auc, np.nan if noisy.all() else _auroc(runs), _average_precision(runs)
    return np.array([*rates[0], *rates[1], *areas])


def _check(harm: Float[np.ndarray, " n"], noisy: Bool[np.ndarray, " n"]) -> None:
    if not noisy.any():
        raise ValueError("no sample is noisy, so a noise detection rate is not defined")
    if np.isnan(harm).any():
        raise ValueError(
            f"the harm of {int(np.isnan(harm).sum())} of {len(harm)} samples is NaN, so they have no order"
        )
