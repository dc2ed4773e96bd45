"""All choices of estimator, layers, aggregation and k that a run can serve, and their harm."""

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from jaxtyping import Float

from undertow.aggregation.names import AGGREGATION_NAMES, AGGREGATIONS
from undertow.baselines.simple import loss_harm
from undertow.influence.store import module_keys, standard_groups
from undertow.pipeline.harm import group_harm
from undertow.pipeline.scorer import Scorer, Scoring, memory_bytes
from undertow.pipeline.settings import AuditSettings
from undertow.progress import Reporter

# Order statistics hold all values at once, and take long; the others are served from one pass.
TRIED = tuple(name for name in AGGREGATION_NAMES if AGGREGATIONS[name].form != "order")
SHARES = (0.1, 0.2, 0.3, 0.5)
LOSS = "loss"
PROBE = "probe"
# Probabilities are kept this far from 0.
_LEAST = 1e-12


@dataclass(frozen=True)
class Choice:
    """One way to a harm.

    Attributes:
        kind: influence, baseline or probe.
        estimator: of influence, or the name of the baseline or the probe.
        layers: name of the layer group.
        aggregate: name of the aggregation.
        k: of vote, else None.
        only: which queries count.
        cost: what it takes beside the others; ties go to the lower.
    """

    kind: str
    estimator: str
    layers: str = ""
    aggregate: str = ""
    k: float | None = None
    only: str = ""
    cost: float = 0.0

    @cached_property
    def name(self) -> str:
        """As a reader is told of it."""
        if self.kind != "influence":
            return self.estimator
        how = self.aggregate if self.k is None else f"{self.aggregate} {self.k:.0%}"
        return f"{self.estimator}, {self.layers}, {how}" + (", correct queries" if self.only == "correct" else "")

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Tried:
    """Choices and the harm of every sample by each.

    Attributes:
        choices: what was tried.
        harms: higher is worse.
        scorings: how the tensor serves each of those of kind influence; None where it was not kept.
    """

    choices: tuple[Choice, ...]
    harms: Float[np.ndarray, "choice sample"]
    scorings: tuple[Scoring, ...] | None

    def find(self, **wanted: object) -> int | None:
        """Position of the first choice with these attributes, or None."""
        for i, choice in enumerate(self.choices):
            if all(getattr(choice, name) == value for name, value in wanted.items()):
                return i
        return None


def try_choices(influence: xr.Dataset, settings: AuditSettings, reporter: Reporter | None = None) -> Tried:
    """Every choice that an influence dataset can serve, the loss, and the baselines that were computed.

    Where only scores were kept (``keep``), the aggregation is the settings', and estimators and layers are tried.
    """
    beside = _baselines(influence)
    others = [Choice("baseline", name, cost=0.0 if name == LOSS else 0.5) for name in beside]
    if "influence" in influence:
        scorer = Scorer(influence, memory=memory_bytes(settings.memory), reporter=reporter)
        pairs = _scorings(scorer)
        harms = [found.harm for found in scorer.scores([s for _, s in pairs])]
        scorings: tuple[Scoring, ...] | None = tuple(s for _, s in pairs)
        choices = [choice for choice, _ in pairs]
    else:
        scorings, choices, harms = None, [], []
        for estimator, groups in _groups(influence).items():
            found = group_harm(influence, {g: list(ms) for g, ms in groups.items()}, settings, estimator=estimator)
            for group, harm in found.items():
                choices.append(_choice(influence, estimator, group, groups[group], settings.aggregate, None, "all"))
                harms.append(harm)
    stacked = np.stack([*harms, *beside.values()]).astype(np.float64)
    return Tried((*choices, *others), stacked, scorings)


def with_probe(tried: Tried, probe: Float[np.ndarray, " sample"]) -> Tried:
    """What was tried, and behind it a probe, from the probability of each label by it: harm is its loss."""
    harm = -np.log(np.maximum(probe, _LEAST))
    return Tried((*tried.choices, Choice(PROBE, PROBE, cost=0.5)), np.vstack([tried.harms, harm]), tried.scorings)


def _scorings(scorer: Scorer) -> list[tuple[Choice, Scoring]]:
    right = scorer.influence["query_correct"].values
    which = ("all", "correct") if 0 < right.mean() < 1 else ("all",)
    found = []
    for estimator, groups in _groups(scorer.influence).items():
        for group, modules in groups.items():
            for how in TRIED:
                for k in SHARES if "k" in AGGREGATIONS[how].needs else (None,):
                    for only in which:
                        choice = _choice(scorer.influence, estimator, group, modules, how, k, only)
                        found.append((choice, Scoring(estimator, modules, how, k or 0.3, (only,))))
    return found


def _choice(
    influence: xr.Dataset, estimator: str, group: str, modules: tuple[int, ...], how: str, k: float | None, only: str
) -> Choice:
    """With its cost: gradients of fewer modules first, then the simpler aggregation, then all queries."""
    place = influence["estimator"].values.tolist().index(estimator)
    part = len(modules) / influence.sizes["module"]
    cost = 1 + part + 0.01 * AGGREGATION_NAMES.index(how) + 0.1 * place + 0.005 * (only != "all")
    return Choice("influence", estimator, group, how, k, only, cost)


def _groups(influence: xr.Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    """The layer groups of each estimator that differ, with the modules that it is defined on."""
    keys = module_keys(influence)
    return {
        estimator: standard_groups(keys, influence["covered"].sel(estimator=estimator).values)
        for estimator in influence["estimator"].values.tolist()
    }


def _baselines(influence: xr.Dataset) -> dict[str, np.ndarray]:
    found = {LOSS: loss_harm(influence["sample_loss"].values)}
    if "baseline_harm" in influence:
        for name in influence["baseline"].values.tolist():
            found.setdefault(name, influence["baseline_harm"].sel(baseline=name).values)
    return found
