"""More kinds of planted noise than uniform flips: by class, by doubt, in the words, by duplicates, as annotated.

Every function leaves the samples it is given as they are and draws from its seed alone. ``planted`` marks the rows that
were affected, ``round(rate * n)`` of them, and ``original_labels`` holds the labels that are right for the rows that
are returned.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from undertow.data.labels import INTEGER
from undertow.data.planting import Planted, affected_rows, plant_noise, present_classes
from undertow.data.samples import Samples
from undertow.data.splits import class_quotas
from undertow.data.text_noise import conflicting_duplicates, corrupt_words
from undertow.data.wording import first_rows, quoted
from undertow.errors import ConfigError, DataError

__all__ = [
    "NOISE_KINDS",
    "conflicting_duplicates",
    "corrupt_words",
    "noise_from_column",
    "plant",
    "plant_by_class",
    "plant_by_doubt",
]

NOISE_KINDS: dict[str, str] = {
    "uniform": "labels flipped to any other class, rows and classes drawn uniformly",
    "pairs": "labels flipped to the next class, the same share of every class",
    "transition": "labels flipped by a matrix of class-to-class probabilities, the same share of every class",
    "doubt": "labels a reference model doubts most, flipped to the class it finds most probable beside them",
    "words": "words dropped, swapped or replaced, labels kept",
    "duplicates": "rows replaced by near-copies of other rows under another label",
    "column": "labels that differ from true labels given beside them",
}

# The one argument beside the rate that a kind takes, and must be given.
_TAKES = {"transition": "transition", "doubt": "probabilities", "column": "true_labels"}


def plant(
    samples: Samples,
    kind: str,
    rate: float | None,
    *,
    seed: int,
    transition: Float[np.ndarray, "classes classes"] | None = None,
    probabilities: Float[np.ndarray, "n classes"] | None = None,
    true_labels: Sequence[str | int] | None = None,
) -> Planted:
    """Plants one of ``NOISE_KINDS``. ``column`` finds its rate in the data, so its ``rate`` is None.

    Raises:
        ConfigError: an unknown kind, an argument that the kind needs and lacks, or one that it does not take.
        DataError: what the kind itself refuses.
    """
    if kind not in NOISE_KINDS:
        raise ConfigError(f"The noise '{kind}' is not known. Accepted are {quoted(NOISE_KINDS)}; choose one of them.")
    arguments = {
        "rate": rate,
        "transition": transition,
        "probabilities": probabilities,
        "true_labels": true_labels,
    }
    given = {name for name, value in arguments.items() if value is not None}
    needed = ({_TAKES[kind]} if kind in _TAKES else set()) | ({"rate"} if kind != "column" else set())
    if given != needed:
        came = quoted(sorted(given)) or "none of them"
        raise ConfigError(
            f"The noise '{kind}' takes {quoted(sorted(needed))} and came with {came}. Give "
            "what it takes and nothing else."
        )
    if true_labels is not None:
        return noise_from_column(samples, true_labels)
    share = cast(float, rate)
    if probabilities is not None:
        return plant_by_doubt(samples, share, probabilities, seed=seed)
    if kind in ("pairs", "transition"):
        return plant_by_class(samples, share, seed=seed, transition=transition)
    rest: dict[str, Callable[..., Planted]] = {
        "uniform": plant_noise,
        "words": corrupt_words,
        "duplicates": conflicting_duplicates,
    }
    return rest[kind](samples, share, seed=seed)


def plant_by_class(
    samples: Samples, rate: float, *, seed: int, transition: Float[np.ndarray, "classes classes"] | None = None
) -> Planted:
    """Flips the same share of every class; the class decides what its labels become.

    Each class gives ``rate * n_c`` rows rounded down, and those with the largest remainders one more, up to
    ``round(rate * n)`` in all.

    Args:
        samples: n rows.
        rate: share of the rows to flip.
        seed: which rows, and which classes they get.
        transition: ``transition[c, d]`` is the probability that a label c becomes d, up to a factor for each row; the
            diagonal is ignored. By default every class becomes the next one that has rows, the last the first.

    Raises:
        ConfigError: a rate out of range or that affects no row; a matrix of another shape, with negative or infinite
            entries, or without another class for a class to be flipped.
        DataError: there are fewer than two classes.
    """
    size = affected_rows(samples, rate)
    present = present_classes(samples)
    chances = _pair_flips(present, len(samples.classes)) if transition is None else _chances(samples, transition)
    rng = np.random.default_rng(seed)
    counts = np.bincount(samples.labels, minlength=len(samples.classes))
    quotas = class_quotas(counts, size)
    stuck = [samples.classes[c] for c in np.flatnonzero(quotas) if chances[c].sum() == 0]
    if stuck:
        raise ConfigError(
            f"The transition matrix gives {quoted(stuck)} no other class, and a rate of {rate} flips rows of every "
            "class. Give each class a positive entry outside the diagonal."
        )
    labels = samples.labels.copy()
    for c in np.flatnonzero(quotas):
        rows = rng.permutation(np.flatnonzero(samples.labels == c))[: quotas[c]]
        labels[rows] = rng.choice(len(samples.classes), size=len(rows), p=chances[c] / chances[c].sum())
    return _flipped(samples, labels)


def plant_by_doubt(
    samples: Samples, rate: float, probabilities: Float[np.ndarray, "n classes"], *, seed: int
) -> Planted:
    """Flips the rows whose label a reference model is least sure of, to the most probable other class.

    Least sure is the smallest probability of the given label. Equal probabilities are ordered by a seeded shuffle; of
    equally probable other classes the first is taken.

    Raises:
        ConfigError: a rate out of range or that affects no row.
        DataError: fewer than two classes, or probabilities of another shape or that are none.
    """
    size = affected_rows(samples, rate)
    present_classes(samples)
    wanted = (len(samples), len(samples.classes))
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.shape != wanted:
        raise DataError(
            f"The probabilities have the shape {chances.shape}; accepted is {wanted}, rows by classes. Predict every "
            f"row of {samples.source} with a model of its classes."
        )
    # 0.01 leaves room for probabilities that were kept in half precision.
    wrong = np.flatnonzero(~((chances >= 0).all(axis=1) & (np.abs(chances.sum(axis=1) - 1) <= 0.01)))
    if len(wrong):
        raise DataError(
            f"The probabilities are negative, not finite or do not sum to 1 in {first_rows(wrong.tolist())}. Accepted "
            "are probabilities of the classes; apply a softmax to logits first."
        )
    everything = np.arange(len(samples))
    shuffled = np.random.default_rng(seed).permutation(len(samples))
    sure = chances[everything, samples.labels]
    doubted = shuffled[np.argsort(sure[shuffled], kind="stable")[:size]]
    others = chances.copy()
    others[everything, samples.labels] = -1
    labels = samples.labels.copy()
    labels[doubted] = others[doubted].argmax(axis=1)
    return _flipped(samples, labels)


def noise_from_column(samples: Samples, true_labels: Sequence[str | int]) -> Planted:
    """Noise that the data has already: a row is noisy where its label is not the true one.

    Integers are class names where any class is named by an integer, otherwise positions among the classes.

    Raises:
        DataError: not one true label per row, or true labels that are not among the classes.
    """
    if len(true_labels) != len(samples):
        raise DataError(
            f"{len(true_labels)} true labels came for the {len(samples)} rows of {samples.source}. Accepted is one "
            "for each row, in the order of the rows."
        )
    index: dict[str | int, int] = {name: position for position, name in enumerate(samples.classes)}
    numbered = any(INTEGER.fullmatch(name) for name in samples.classes)
    index |= {int(name): i for name, i in index.items() if INTEGER.fullmatch(str(name))}
    if not numbered:
        index |= {position: position for position in range(len(samples.classes))}
    unknown = Counter(str(label) for label in true_labels if label not in index)
    if unknown:
        shown = ", ".join(f"'{name}' ({count} rows)" for name, count in sorted(unknown.items())[:20])
        raise DataError(
            f"The true labels {shown} are not among the classes {quoted(samples.classes)} of {samples.source}. Rename "
            "them, or leave their rows out."
        )
    original = np.array([index[label] for label in true_labels], dtype=np.int64)
    return Planted(samples=samples, planted=samples.labels != original, original_labels=original)


def _pair_flips(present: Int[np.ndarray, " m"], classes: int) -> Float[np.ndarray, "classes classes"]:
    chances = np.zeros((classes, classes))
    chances[present, np.roll(present, -1)] = 1
    return chances


def _chances(
    samples: Samples, transition: Float[np.ndarray, "classes classes"]
) -> Float[np.ndarray, "classes classes"]:
    """The matrix, checked, with zeros on its diagonal."""
    chances = np.array(transition, dtype=np.float64)
    wanted = (len(samples.classes),) * 2
    if chances.shape != wanted:
        raise ConfigError(
            f"The transition matrix has the shape {chances.shape}; accepted is {wanted}, a row and a column for each "
            f"of the classes {quoted(samples.classes)}, in this order."
        )
    if not np.isfinite(chances).all() or (chances < 0).any():
        raise ConfigError(
            "The transition matrix has entries that are negative or not finite. Accepted are probabilities; mend them."
        )
    np.fill_diagonal(chances, 0)
    return chances


def _flipped(samples: Samples, labels: Int[np.ndarray, " n"]) -> Planted:
    original = samples.labels.copy()
    return Planted(samples=samples.with_labels(labels), planted=labels != original, original_labels=original)
