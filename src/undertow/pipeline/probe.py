"""A probe beside the model: what its layers before fine-tuning say of rows that they did not learn from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from undertow.baselines.probe import balanced, probe_probabilities
from undertow.calibrate.agreement import agreed_power, at_power
from undertow.calibrate.pool import pooled
from undertow.calibrate.told import Told, class_priors, read_by
from undertow.data import Samples, encode
from undertow.gradients.hidden import QUARTERS, hidden_states
from undertow.pipeline.canaries import Planned
from undertow.pipeline.inputs import Inputs
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import Start, device_of
from undertow.progress import Reporter, Silent

# How much a trusted row counts beside a row to be audited, whose label may be wrong.
TRUSTED_WEIGHTS = (1.0, 10.0)
# Separation of the classes by which the fine-tuned model has to be ahead of the probe to be asked instead.
CLEARER = 0.1
TUNED, PROBED = "the fine-tuned model", "probes of the model before fine-tuning"


@dataclass(frozen=True)
class Opinion:
    """What a model says of all rows.

    Attributes:
        name: of the model, as a reader is told of it.
        rows: of the audited rows, and behind them of the canaries.
        trusted: of trusted rows.
        power: that what it says of the rows was taken to; below 1 where they are not like the trusted ones.
    """

    name: str
    rows: Told
    trusted: Told
    power: float = 1.0


def probe_step(
    start: Start, planned: Planned, inputs: Inputs, settings: AuditSettings, reporter: Reporter | None = None
) -> Opinion:
    """What probes of the model before fine-tuning say of each row: `probed`, by its mean hidden states."""
    parts = (planned.taught, inputs.queries, inputs.selection)
    model = start.base().to(device_of(settings))
    with (reporter or Silent()).track("states before fine-tuning", sum(map(len, parts))) as advance:
        states = np.concatenate(
            [mean_states(model, start.tokenizer, part, settings, advance) for part in parts], axis=1
        )
    trusted = np.concatenate([part.labels for part in parts[1:]])
    return probed(states, planned, trusted, seed=settings.seed, reporter=reporter)


def mean_states(
    model: nn.Module,
    tokenizer: Any,
    samples: Samples,
    settings: AuditSettings,
    advance: Callable[[int], None] = lambda n: None,
) -> Float[np.ndarray, "layer row state"]:
    """Mean hidden states at the end of each quarter of a model."""
    encoded = encode(samples, tokenizer, settings.max_length)
    pad_id = tokenizer.pad_token_id
    found = hidden_states(model, encoded, pad_id=pad_id, layers=QUARTERS, pooling=["mean"], advance=advance)
    assert found.mean is not None
    return found.mean


def probed(
    states: Float[np.ndarray, "layer row state"],
    planned: Planned,
    trusted: Int[np.ndarray, " trusted"],
    *,
    seed: int,
    reporter: Reporter | None = None,
) -> Opinion:
    """What probes say of each row, that learned from all other rows as the model was trained on them, and trusted ones.

    A probe looks at the mean hidden states at the end of a quarter of the model before fine-tuning, and counts trusted
    rows once or ten times (`undertow.baselines.probe`). Within either kind of rows every label counts the same: else,
    where flips of one class left one label rare among the rows to be audited, whatever tells these from trusted rows
    would pass for it. What all of them say is pooled by the trusted rows (`undertow.calibrate.pool`), and taken to be
    less sure of the audited rows where the layers agree less on them (`undertow.calibrate.agreement`).

    Args:
        states: of each layer that is looked at, of the user's rows and, behind them, of trusted rows.
        planned: the canaries among the user's rows.
        trusted: labels of the trusted rows.
        seed: draws the folds of the pool.
        reporter: shows progress.
    """
    labels = np.concatenate([planned.taught.labels, trusted])
    n, classes = len(planned.taught), len(planned.taught.classes)
    rows = np.concatenate([np.arange(n), planned.canaries.positions])
    ours, theirs = balanced(labels[:n]), balanced(labels[n:])
    weights = [np.concatenate([ours, weight * theirs]) for weight in TRUSTED_WEIGHTS]
    probes = []
    with (reporter or Silent()).track("probes", len(states) * len(weights)) as advance:
        for layer in states:
            for counted in weights:
                probes.append(probe_probabilities(layer, labels, counted, classes))
                advance(1)
    audited = [Told(found[rows], planned.audited.labels, held_out=True) for found in probes]
    known = [Told(found[n:], trusted, held_out=True) for found in probes]
    last = slice(len(weights) - 1, None, len(weights))  # one of each layer
    power = agreed_power([told.take(np.arange(n)) for told in audited[last]], known[last])
    said, asked = pooled(audited, known, seed=seed)
    return Opinion(PROBED, at_power(said, power, class_priors(asked)), asked, power)


def more_reliable(tuned: Opinion, probe: Opinion) -> Opinion:
    """Who is asked how many labels are wrong: the probe, unless the fine-tuned model is much clearer.

    From what the fine-tuned model says its memory of the rows has to be taken off, of which canaries say roughly how
    much it is: where both tell the classes of trusted rows apart about as well, the probe is nearer to the truth.
    """
    clearer = read_by(tuned.trusted).separation - read_by(probe.trusted).separation
    return tuned if clearer > CLEARER else probe
