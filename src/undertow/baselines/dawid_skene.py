"""Dawid-Skene on several labels of one text, through crowd-kit."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from undertow.errors import ConfigError, DataError

# crowd-kit keeps probabilities this far from 0.
_LEAST = 1e-10


def dawid_skene_harm(
    texts: Int[np.ndarray, " n"], annotators: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Minus the log-probability of each row's label, given all labels of its text and how each annotator errs.

    Every annotator has a confusion matrix, every text a true class; both are estimated by expectation maximisation
    (Dawid and Skene 1979).

    Args:
        texts: which rows are of one text: the same number for the same text.
        annotators: who or what labelled each row, as a number.
        labels: class index of each row.

    Raises:
        ConfigError: crowd-kit is not installed.
        DataError: no text has labels of two annotators.
    """
    model = _model()
    check_annotated(texts, annotators)
    table = pd.DataFrame({"task": texts, "worker": annotators, "label": labels})
    # The same order whatever the order of the rows: sums of floats depend on it.
    table = table.sort_values(["task", "worker", "label"], ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what pandas deprecates and crowd-kit uses
        found = model.fit(table).probas_
    at = found.index.get_indexer(texts), found.columns.get_indexer(labels)
    result: np.ndarray = -np.log(np.maximum(found.to_numpy(dtype=np.float64)[at], _LEAST))
    return result


def check_annotated(texts: Int[np.ndarray, " n"], annotators: Int[np.ndarray, " n"]) -> None:
    """Make sure that some texts have labels of several annotators.

    Raises:
        DataError: says what is needed.
    """
    pairs = np.unique(np.stack([texts, annotators], axis=1), axis=0)
    if len(pairs) == len(np.unique(texts)):
        raise DataError(
            "Dawid-Skene compares several labels of one text, and no text here has labels of two annotators. Give a "
            "row for every text and annotator, or leave this baseline out."
        )


def _model() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise ConfigError(
            "The baseline dawid-skene needs crowd-kit, which is not installed here. Install it with: "
            "pip install 'undertow[crowd]'"
        ) from error
    return DawidSkene(n_iter=100)


def check_library() -> None:
    """Make sure that crowd-kit can be imported.

    Raises:
        ConfigError: with the line that installs it.
    """
    _model()
