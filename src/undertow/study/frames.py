"""What a study left, and the frames of scores that its tables compare."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from undertow.errors import RunFolderError
from undertow.metrics.intervals import Interval, percentiles, resamples

CELL = ["model", "task", "noise", "rate", "seed"]
BLOCK = CELL[1:]
CONFIGURATION = ["estimator", "layers", "aggregation", "k", "only"]
NOISE_MEASURES = ["ndr10", "ndr20", "ndr30", "auc_ndr", "auroc"]
COLUMNS = {
    "results": [*CELL, "kind", *CONFIGURATION, *NOISE_MEASURES, "cut", "accuracy", "f1", "matthews"],
    "layers": [*CELL, "estimator", "layers", "noise_rank", "clean_rank", "cancellation"],
    "agreement": [*CELL, "estimator", "first", "second", "spearman", "spearman_noisy"],
    "costs": [*CELL, "stage", "method", "seconds", "peak_memory_mb"],
}
# Columns of numbers, which a table without rows, or with none known, may hold as objects.
NUMBERS = (
    *("rate", "k", *NOISE_MEASURES, "cut", "accuracy", "f1", "matthews", "noise_rank", "clean_rank", "cancellation"),
    *("spearman", "spearman_noisy", "seconds", "peak_memory_mb"),
)
# Left by studies whose estimators cover layer groups alone.
OPTIONAL = ("layers", "agreement")
# Estimators of word embeddings alone are compared with the layer groups of the estimator they come from.
FAMILIES = {"tracin-we": "tracin", "tracin-we-k": "tracin", "tracin-we-k-pair": "tracin"}
OUTCOMES = {"accuracy": "accuracy after retraining", "ndr30": "NDR@30"}


@dataclass(frozen=True)
class Frames:
    """The frames of a study, one row a cell (model, task, noise, rate, seed) and what the frame is about.

    Attributes:
        results: a row a configuration and cut: noise detection, and quality after retraining where there was any.
            ``how`` is the aggregation with its k and the queries that count.
        layers: a row an estimator and layer group: mean normalised rank of noisy and clean samples, cancellation.
        agreement: a row an estimator and pair of layer groups.
        costs: a row a stage, and within influence one a method.
        cut: share removed before the retraining that is compared; None where nothing was retrained.
    """

    results: pd.DataFrame
    layers: pd.DataFrame
    agreement: pd.DataFrame
    costs: pd.DataFrame
    cut: float | None

    @classmethod
    def of(cls, results: pd.DataFrame, layers: pd.DataFrame, agreement: pd.DataFrame, costs: pd.DataFrame) -> "Frames":
        """The study of these frames, as `COLUMNS` has them; the cut is the one that was retrained most."""
        results, layers, agreement, costs = (
            frame.astype({name: np.float64 for name in NUMBERS if name in frame})
            for frame in (results, layers, agreement, costs)
        )
        named = results.assign(how=how_names(results))
        return cls(named, layers, agreement, costs, _main_cut(named))

    @property
    def influence(self) -> pd.DataFrame:
        """The rows of influence, one a cell and configuration, whatever was retrained."""
        return self.kind("influence")

    def kind(self, kind: str) -> pd.DataFrame:
        """The rows of a kind, one a cell and configuration, for measures that no cut changes."""
        rows = self.results[self.results["kind"] == kind]
        return rows.drop_duplicates([*CELL, *CONFIGURATION])

    @property
    def retrained(self) -> pd.DataFrame:
        """The rows of influence and of baselines that were retrained at the cut of the study."""
        rows = self.results[(self.results["kind"] != "control") & self.results["accuracy"].notna()]
        return rows[np.isclose(rows["cut"], np.nan if self.cut is None else self.cut)]

    def outcomes(self, model: str) -> list[tuple[pd.DataFrame, str]]:
        """The rows of influence that a model may be judged by, with the column: accuracy, where any was retrained,
        then NDR@30, where noise was planted. A comparison takes the first that holds what it compares.
        """
        retrained, found = self.retrained, self.influence
        of_accuracy = retrained[(retrained["kind"] == "influence") & (retrained["model"] == model)]
        of_noise = found[(found["model"] == model) & found["ndr30"].notna()]
        return [(rows, name) for rows, name in ((of_accuracy, "accuracy"), (of_noise, "ndr30")) if len(rows)]

    @property
    def models(self) -> list[str]:
        """The models, in the order they came."""
        return [str(model) for model in self.results["model"].unique()]


@dataclass(frozen=True)
class Complete:
    """A frame of scores without empty cells, and how much of it was left out for that."""

    scores: pd.DataFrame
    blocks_left: int
    configurations_left: int


def read_frames(folder: Path) -> Frames:
    """Read the frames of a study.

    Raises:
        RunFolderError: when one is missing, cannot be read, is empty or lacks a column.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is no folder. Give the study folder that undertow experiment wrote.")
    frames = {name: _read(folder / f"{name}.parquet", columns) for name, columns in COLUMNS.items()}
    try:
        study = Frames.of(frames["results"], frames["layers"], frames["agreement"], frames["costs"])
    except (ValueError, TypeError) as error:  # a text in a column of numbers
        raise RunFolderError(
            f"The tables of {folder} hold something else than numbers: {str(error).splitlines()[0]}. They were written "
            "by another version or another program: run the study again in a new folder."
        ) from error
    if study.results.empty:
        raise RunFolderError(f"{folder / 'results.parquet'} has no rows, so there is nothing to show. {_AGAIN}")
    return study


_AGAIN = "Let the study finish: the same undertow experiment command goes on where it stopped."


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        if path.stem in OPTIONAL:
            return pd.DataFrame(columns=columns)
        raise RunFolderError(f"{path.parent} holds no {path.name}, so it is no study or not a whole one. {_AGAIN}")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise RunFolderError(f"{path} cannot be read: {str(error).splitlines()[0]}. {_AGAIN}") from error
    if path.stem == "layers" and "cancellation" not in frame:  # measured where the audits were told to
        frame["cancellation"] = np.nan
    missing = [name for name in columns if name not in frame]
    if missing:
        raise RunFolderError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}. It was written "
            "by another version or another program: run the study again in a new folder."
        )
    return frame


def how_names(results: pd.DataFrame) -> list[str]:
    """The aggregation of each row with its k and the queries that count, where these are not all."""
    chosen = zip(results["aggregation"], results["k"], results["only"], strict=True)
    return [
        f"{how}{'' if pd.isna(k) else f' k={k:g}'}{'' if only in ('all', '') or pd.isna(only) else f', {only}'}"
        for how, k, only in chosen
    ]


def family(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns ``estimator`` and ``layers`` as groups are compared, as ``family`` and ``group``."""
    alone = frame["estimator"].isin(list(FAMILIES))
    named = frame["estimator"] + (" " + frame["layers"]).where(frame["layers"] != "embedding", "")
    group = frame["layers"].where(~alone, named)
    return frame.assign(family=frame["estimator"].replace(FAMILIES), group=group)


def scores_of(rows: pd.DataFrame, outcome: str, columns: str | list[str]) -> Complete:
    """The outcome with a row a block (task, noise, rate, seed) and a column a configuration, none empty.

    Where cells are empty, the block or configuration that lacks the largest share is left out until none is.
    """
    scores = rows.pivot_table(index=BLOCK, columns=columns, values=outcome, aggfunc="mean", sort=False)
    blocks, configurations = scores.shape
    while scores.size and scores.isna().any(axis=None):
        empty = scores.isna()
        by_row, by_column = empty.mean(axis=1), empty.mean(axis=0)
        if by_row.max() >= by_column.max():
            scores = scores.drop(index=[by_row.idxmax()])
        else:
            scores = scores.drop(columns=[by_column.idxmax()])
    return Complete(scores, blocks - len(scores), configurations - scores.shape[1])


def mean_interval(values: pd.Series, *, times: int) -> Interval:
    """Mean over cells with its 95% bootstrap interval; NaN are left out, and of one cell there is no interval."""
    known = values.dropna().to_numpy(np.float64)
    if len(known) < 2:
        return Interval(float(known[0]) if len(known) else np.nan, np.nan, np.nan)
    return percentiles(float(known.mean()), known[_positions(len(known), times)].mean(axis=1))


@lru_cache(maxsize=8)
def _positions(n: int, times: int) -> Int[np.ndarray, "times n"]:
    """The resamples of n cells, which many means share."""
    return np.stack(list(resamples(n, times=times)))


def with_interval(name: str, interval: Interval) -> dict[str, float]:
    """The three columns of a measure with its interval."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _main_cut(results: pd.DataFrame) -> float | None:
    """The cut retrained most often, of several the nearest to 0.3, which the paper removes."""
    known = results[(results["kind"] != "control") & results["accuracy"].notna() & results["cut"].notna()]
    counts = known["cut"].value_counts()
    if counts.empty:
        return None
    return min((float(cut) for cut in counts[counts == counts.max()].index), key=lambda cut: abs(cut - 0.3))
