"""Probes of the model before fine-tuning: out-of-sample class probabilities of all rows, and what follows from them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import nn

from undertow.baselines.probe import balanced, probe_probabilities
from undertow.controls.predictions import pooled
from undertow.controls.shift import Shift, compare_texts
from undertow.controls.transitions import class_shares, transition_matrix, true_classes
from undertow.data import Samples, encode
from undertow.errors import RunFolderError
from undertow.gradients.hidden import QUARTERS, hidden_states
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, device_of
from undertow.pipeline.whole import whole
from undertow.progress import Reporter, Silent

# What a trusted row weighs beside a row whose label may be wrong. With 10 and 100, probes order rows of systematic
# errors better (NDR@30 +0.01), but they overfit 150 trusted rows, and promises break.
TRUSTED_WEIGHTS = (1.0, 10.0)


@dataclass(frozen=True)
class Probed:
    """What probes say of the rows and of the trusted rows (anchors, queries, selection, in this order).

    Attributes:
        rows: class probabilities of the user's rows.
        trusted: class probabilities of the trusted rows.
        labels: trusted labels.
        transitions: share of each true class among the rows of each given label.
        shift: how trusted texts differ from training texts, and the weights that make up for it.
    """

    rows: Float[np.ndarray, "row class"]
    trusted: Float[np.ndarray, "trusted class"]
    labels: Int[np.ndarray, " trusted"]
    transitions: Float[np.ndarray, "given true"]
    shift: Shift

    @property
    def prior(self) -> Float[np.ndarray, " class"]:
        """Share of each class among the trusted rows."""
        return class_shares(self.labels, self.rows.shape[1])

    def posterior(
        self, probabilities: Float[np.ndarray, "any class"], labels: Int[np.ndarray, " any"]
    ) -> Float[np.ndarray, "any class"]:
        """Probability of each true class of some rows, given text and label."""
        return true_classes(probabilities, labels, self.prior, self.transitions)

    def save(self, path: Path) -> None:
        """Keep everything in one file, whole or not at all."""
        shift = self.shift
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                rows=self.rows,
                trusted=self.trusted,
                labels=self.labels,
                transitions=self.transitions,
                differs=[shift.auroc, shift.p_value],
                row_weights=shift.rows,
                trusted_weights=shift.trusted,
            )

    @classmethod
    def load(cls, path: Path) -> "Probed":
        """Read back what `save` kept.

        Raises:
            RunFolderError: when the file cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                auroc, p_value = kept["differs"].tolist()
                shift = Shift(auroc, p_value, kept["row_weights"], kept["trusted_weights"])
                return cls(kept["rows"], kept["trusted"], kept["labels"], kept["transitions"], shift)
        except (OSError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"{path}, which holds the probes' predictions, cannot be read ({error}). Start a new run, or pass "
                "--overwrite."
            ) from error


def probe_step(
    start: Start,
    train: Samples,
    trusted: tuple[Samples, ...],
    good: Bool[np.ndarray, " trusted"],
    settings: AuditSettings,
    reporter: Reporter | None = None,
    *,
    drawn: bool = False,
) -> Probed:
    """Fit probes on hidden states before fine-tuning, and predict every row without its own label.

    Args:
        start: makes the model without an adapter.
        train: the user's rows.
        trusted: anchors, queries and selection rows.
        good: which of the trusted rows stand for good training rows.
        settings: maximum length, device, seed.
        reporter: shows progress.
        drawn: whether the trusted rows are a random sample of the training rows, so that they need no weights.
    """
    parts = (train, *trusted)
    model = start.base().to(device_of(settings))
    with (reporter or Silent()).track("states before fine-tuning", sum(map(len, parts))) as advance:
        found = [_mean_states(model, start.tokenizer, part, settings, advance) for part in parts]
    states = np.concatenate([values for values, _ in found], axis=1)
    lengths = np.concatenate([counts for _, counts in found])
    labels = np.concatenate([part.labels for part in parts])
    result = probed(states, lengths, labels, good, len(train.classes), seed=settings.seed, reporter=reporter)
    if not drawn:
        return result
    even = replace(result.shift, rows=np.ones(len(train)), trusted=good.astype(np.float64))
    return replace(result, shift=even)


def _mean_states(
    model: nn.Module, tokenizer: Any, samples: Samples, settings: AuditSettings, advance: Callable[[int], None]
) -> tuple[Float[np.ndarray, "layer row state"], Int[np.ndarray, " row"]]:
    """Mean hidden states at the end of each quarter of a model, and the number of tokens."""
    encoded = encode(samples, tokenizer, settings.max_length)
    pad_id = tokenizer.pad_token_id
    found = hidden_states(model, encoded, pad_id=pad_id, layers=QUARTERS, pooling=["mean"], advance=advance)
    assert found.mean is not None
    return found.mean, encoded.lengths


def probed(
    states: Float[np.ndarray, "layer both state"],
    lengths: Int[np.ndarray, " both"],
    labels: Int[np.ndarray, " both"],
    good: Bool[np.ndarray, " trusted"],
    classes: int,
    *,
    seed: int,
    reporter: Reporter | None = None,
) -> Probed:
    """Probabilities by probes of each layer, pooled by trusted rows; label transitions; the shift of the texts.

    Args:
        states: of each layer, of the user's rows and, behind them, of the trusted rows.
        lengths: tokens of each text.
        labels: given labels of the rows, trusted labels behind them.
        good: which of the trusted rows stand for good training rows; the others get a weight of 0.
        classes: number of classes.
        seed: draws folds.
        reporter: shows progress.
    """
    rows = len(labels) - len(good)
    given, known = labels[:rows], labels[rows:]
    ours, theirs = balanced(given), balanced(known)
    weights = [np.concatenate([ours, weight * theirs]) for weight in TRUSTED_WEIGHTS]
    found = []
    with (reporter or Silent()).track("probes", len(states) * len(weights)) as advance:
        for layer in states:
            for counted in weights:
                found.append(probe_probabilities(layer, labels, counted, classes))
                advance(1)
    own, trusted = pooled([p[:rows] for p in found], [p[rows:] for p in found], known, seed=seed)
    prior = class_shares(known, classes)
    transitions = transition_matrix(own, given, prior)
    right = true_classes(own, given, prior, transitions)[np.arange(rows), given]
    compared = np.concatenate([np.ones(rows, dtype=bool), good])
    everyone = np.concatenate([own, trusted])[compared]
    shift = compare_texts(states[-1][compared], lengths[compared], everyone, labels[compared], right, seed=seed)
    ratios = np.zeros(len(good))
    ratios[good] = shift.trusted
    return Probed(own, trusted, known, transitions, replace(shift, trusted=ratios))
