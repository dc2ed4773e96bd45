"""Several models that say how probable each class is, pooled to one by what trusted rows say of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from undertow.calibrate.choices import held_out_folds
from undertow.calibrate.told import Told, as_read, read_by

FOLDS = 5
# Deviation of the part of each in the pool, before trusted rows are asked: parts of like models are held alike.
PART = 0.3


def pool_parts(
    logs: Float[np.ndarray, "model row class"], labels: Int[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, " model"], Float[np.ndarray, " class"]]:
    """Parts, at least 0, and biases of the classes that make trusted labels most likely.

    Args:
        logs: logarithms of the probabilities of trusted rows, of each model as it is to be read.
        labels: of the trusted rows.
    """
    from scipy.optimize import minimize

    models, rows, classes = logs.shape
    labelled = np.zeros((rows, classes))
    labelled[np.arange(rows), labels] = 1

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        parts, bias = parameters[:models], parameters[models:]
        scores = np.tensordot(parts, logs, 1) + bias
        total = np.logaddexp.reduce(scores, axis=1)
        off = np.exp(scores - total[:, None]) - labelled
        value = float((total - (scores * labelled).sum(axis=1)).sum() + 0.5 * ((parts / PART) ** 2).sum())
        value += float(0.5 * (bias**2).sum())
        return value, np.concatenate([np.tensordot(logs, off, 2) + parts / PART**2, off.sum(axis=0) + bias])

    bounds = [(0.0, None)] * models + [(None, None)] * classes
    start = np.concatenate([np.full(models, 1 / models), np.zeros(classes)])
    found: np.ndarray = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:models], found[models:]


def pooled(rows: Sequence[Told], trusted: Sequence[Told], *, seed: int = 0) -> tuple[Told, Told]:
    """What a pool of models says of rows and of trusted rows: a product of powers of what each says.

    A log-linear pool (Genest and Zidek 1986): each model is read first (`undertow.calibrate.told.read_by`), so that it
    is as sure as it is right, and its power in the pool is what trusted rows ask for. Of a trusted row it says what a
    pool says that was made without this row: else it would seem surer of rows than it may be.

    Args:
        rows: what each model says of the same rows.
        trusted: what it says of the same trusted rows, two or more, with labels to be trusted.
        seed: draws the folds of the trusted rows.
    """
    fold = held_out_folds(len(trusted[0]), FOLDS, seed=seed)
    known = np.empty_like(trusted[0].probabilities)
    for f in np.unique(fold):
        mine, others = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
        known[mine] = _pool([t.take(mine) for t in trusted], [t.take(others) for t in trusted])
    return replace(rows[0], probabilities=_pool(rows, trusted)), replace(trusted[0], probabilities=known)


def _pool(rows: Sequence[Told], trusted: Sequence[Told]) -> Float[np.ndarray, "row class"]:
    """Probabilities that the pool of models gives some rows."""
    from scipy.special import softmax

    readings = [read_by(told) for told in trusted]

    def logs(told: Sequence[Told]) -> np.ndarray:
        return np.stack([as_read(one, reading) for one, reading in zip(told, readings, strict=True)])

    parts, bias = pool_parts(logs(trusted), trusted[0].labels)
    result: np.ndarray = softmax(np.tensordot(parts, logs(rows), 1) + bias, axis=1)
    return result
