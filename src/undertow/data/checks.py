"""Checks and counts on loaded samples."""

from collections import Counter
from hashlib import sha256

from undertow.data.samples import Samples
from undertow.errors import DataError


def count_leaks(train: Samples, other: Samples) -> int:
    """Rows of ``train`` whose text and second text also occur in ``other``."""
    known = set(other.inputs)
    return sum(texts in known for texts in train.inputs)


def duplicate_conflicts(samples: Samples) -> int:
    """Rows whose text and second text also occur under another label."""
    pairs = list(zip(samples.inputs, samples.labels.tolist(), strict=True))
    classes = Counter(texts for texts, _ in set(pairs))
    return sum(classes[texts] > 1 for texts, _ in pairs)


def check_enough_rows(samples: Samples, batch_size: int) -> None:
    """Refuses samples that do not fill one batch.

    Raises:
        DataError: fewer rows than ``batch_size``.
    """
    if len(samples) < batch_size:
        raise DataError(
            f"The source {samples.source} has {len(samples)} rows, fewer than one batch of {batch_size}. "
            "Give more rows, or a smaller --batch-size."
        )


def check_same_inputs(train: Samples, other: Samples) -> None:
    """Refuses a second text on one side only, which a model would read as another task.

    Raises:
        DataError: exactly one of the two has a second text.
    """
    if (train.columns.text_pair is None) != (other.columns.text_pair is None):
        raise DataError(
            f"{train.source} is read with {train.columns}, {other.source} with {other.columns}: one has a "
            "second text and the other has none. Name the columns with --text-column and --text-pair-column "
            "('none' for no second text)."
        )


def fingerprint(samples: Samples) -> str:
    """SHA-256 of texts, second texts and label names in row order, as hex. The same in every process."""
    digest = sha256(b"pair" if samples.text_pairs is not None else b"single")
    for texts, name in zip(samples.inputs, samples.label_names, strict=True):
        for part in (*texts, name):
            data = part.encode("utf-8", "surrogatepass")
            # The length goes in first, so that "ab" + "c" and "a" + "bc" differ.
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()
