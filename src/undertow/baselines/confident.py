"""Confident learning on the model's own hidden states, through cleanlab."""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Int

from undertow.errors import ConfigError, DataError

FOLDS = 5


def confident_learning_harm(
    states: Float[np.ndarray, "n h"], labels: Int[np.ndarray, " n"], *, seed: int = 0
) -> Float[np.ndarray, " n"]:
    """Minus cleanlab's label quality, in [-1, 0], from probabilities that a held-out classifier predicts.

    Quality is the normalised margin (p_y - max_{c != y} p_c + 1) / 2 (Northcutt et al. 2021, "Confident
    Learning: Estimating Uncertainty in Dataset Labels"); p as `held_out_probabilities` gives it.

    Raises:
        ConfigError: cleanlab is not installed.
        DataError: there is one class only, or a class has fewer samples than there are folds.
    """
    quality = _cleanlab_quality()
    check_classes(labels)
    _, given = np.unique(labels, return_inverse=True)
    probabilities = held_out_probabilities(states, given, seed=seed)
    return -np.asarray(quality(given, probabilities, method="normalized_margin"), dtype=np.float64)


def held_out_probabilities(
    states: Float[np.ndarray, "n h"], labels: Int[np.ndarray, " n"], *, seed: int
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of each sample from a logistic regression fitted on the other four of five folds.

    States are standardised on the same folds. The folds are stratified and drawn by ``seed`` over the samples
    sorted by a random projection of their states, so the order in which samples come does not matter, and states
    that differ by a rounding (another batch size, another number of threads) get the same folds; equal samples of
    equal label get the mean of their probabilities.

    Args:
        states: one vector a sample.
        labels: class indices 0 to classes - 1, each at least five times.
        seed: draws the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wide = np.ascontiguousarray(states, dtype=np.float64) + 0.0  # + 0.0 makes of -0.0 what it equals
    digests = np.array([_digest(row, label) for row, label in zip(wide, labels.tolist(), strict=True)])
    # A sum within each row, and no matrix product: that may round a row by its place among the others.
    projected = (wide * np.random.default_rng(seed).normal(size=wide.shape[1])).sum(axis=1)
    order = np.lexsort((digests, projected))
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-6, max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found = cross_val_predict(model, wide[order], labels[order], cv=folds, method="predict_proba")
    _, group = np.unique(digests[order], return_inverse=True)
    sums = np.zeros((group.max() + 1, found.shape[1]))
    np.add.at(sums, group, found)
    probabilities: np.ndarray = np.empty_like(found)
    probabilities[order] = (sums / np.bincount(group)[:, None])[group]
    return probabilities


def _digest(row: np.ndarray, label: int) -> str:
    return blake2b(row.tobytes() + label.to_bytes(8, "little", signed=True), digest_size=16).hexdigest()


def _cleanlab_quality() -> Callable[..., np.ndarray]:
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise ConfigError(
            "The baseline confident-learning needs cleanlab, which is not installed here. Install it with: "
            "pip install 'undertow[cleanlab]'"
        ) from error
    scores: Callable[..., np.ndarray] = get_label_quality_scores
    return scores


def check_library() -> None:
    """Make sure that cleanlab can be imported.

    Raises:
        ConfigError: with the line that installs it.
    """
    _cleanlab_quality()


def check_classes(labels: Int[np.ndarray, " n"]) -> None:
    """Refuse labels of one class only, or of a class with fewer samples than there are folds.

    Raises:
        DataError: names the classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            f"All samples are of class {', '.join(map(str, classes))}: confident learning tells classes apart and "
            "needs at least two."
        )
    few = [f"class {c} has {m}" for c, m in zip(classes, counts, strict=True) if m < FOLDS]
    if few:
        raise DataError(
            f"Confident learning predicts each sample from the other {FOLDS - 1} of {FOLDS} folds, so each class "
            f"needs at least {FOLDS} samples; {', '.join(few)}. Add samples, merge or leave out these classes, or "
            "leave out this baseline."
        )
