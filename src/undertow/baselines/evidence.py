"""What baselines look at, as plain arrays."""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float, Int

from undertow.errors import DataError


@dataclass(frozen=True)
class Evidence:
    """What is known of n samples and q queries; only what the chosen baselines need has to be there.

    True noise is not among it: no baseline may see what it is to find.

    Attributes:
        labels: given class index of each sample.
        loss: loss of each sample under its label.
        probabilities: predicted class probabilities of each sample.
        margins: margin of the logits under the given label, for each epoch of fine-tuning.
        states: hidden state of each sample in one layer.
        gradients: gradient of each sample's loss.
        texts: the same number for samples of one text.
        annotators: who or what labelled each sample, as a number.
        query_labels: class index of each query.
        query_states: hidden state of each query in the same layer.
        query_gradients: gradient of each query's loss.
        seed: for the baselines that draw.

    Raises:
        DataError: arrays of different lengths, or values that are not finite.
    """

    labels: Int[np.ndarray, " n"]
    loss: Float[np.ndarray, " n"] | None = None
    probabilities: Float[np.ndarray, "n classes"] | None = None
    margins: Float[np.ndarray, "epochs n"] | None = None
    states: Float[np.ndarray, "n h"] | None = None
    gradients: Float[np.ndarray, "n d"] | None = None
    texts: Int[np.ndarray, " n"] | None = None
    annotators: Int[np.ndarray, " n"] | None = None
    query_labels: Int[np.ndarray, " q"] | None = None
    query_states: Float[np.ndarray, "q h"] | None = None
    query_gradients: Float[np.ndarray, "q d"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seed"}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        lengths = {name: a.shape[1] if name == "margins" else len(a) for name, a in arrays.items()}
        for prefix, what in ((False, "samples"), (True, "queries")):
            counts = {name: length for name, length in lengths.items() if name.startswith("query_") == prefix}
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{name} has {length}" for name, length in counts.items())
                raise DataError(f"The evidence is of different numbers of {what}: {told}. Give all of the same {what}.")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                rows = ~np.isfinite(array).all(axis=tuple({*range(array.ndim)} - {1 if name == "margins" else 0}))
                raise DataError(
                    f"The {name} of {int(rows.sum())} of {len(rows)} rows are not finite (first at position "
                    f"{int(rows.argmax())}). Collect them anew from a model that has not diverged."
                )

    def take(self, rows: Int[np.ndarray, " m"]) -> "Evidence":
        """The same of some of the samples, at these positions."""
        names = ("labels", "loss", "probabilities", "states", "gradients", "texts", "annotators")
        held = {name: getattr(self, name) for name in names}
        taken = {name: array[rows] for name, array in held.items() if array is not None}
        margins = None if self.margins is None else self.margins[:, rows]
        return replace(self, **taken, margins=margins)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.labels)
