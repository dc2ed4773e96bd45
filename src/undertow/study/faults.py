"""What is wrong with a study only when its fields are looked at together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.study.config import Study

Place = tuple[str | int, ...]
# Lists whose entries are there once.
_LISTS = ("tasks", "noise", "seeds", "estimators", "baselines", "layers", "aggregations", "only", "cuts")


def joint_faults(study: "Study") -> Iterator[tuple[Place, str]]:
    """Where each fault is, as keys and positions, and what it is in words."""
    for what in _LISTS:
        entries = [_name(entry) for entry in getattr(study, what)]
        for i, entry in enumerate(entries):
            if entry in entries[:i]:
                yield (what, i), f"{what} holds {entry} twice"
    if any(noise.kind == "column" for noise in study.noise):
        for i, task in enumerate(study.tasks):
            if task.true_label_column is None:
                text = f"noise of kind column needs true_label_column: in the task '{task.name}'"
                yield ("tasks", i), text
    yield from _not_in_the_study(study)


def _name(entry: Any) -> str:
    """What tells an entry of a list from another."""
    if hasattr(entry, "label"):  # a noise, which may be there at several rates
        return str(entry.label)
    return str(getattr(entry, "name", entry))


def _not_in_the_study(study: "Study") -> Iterator[tuple[Place, str]]:
    """What is to be acted on and is never computed, so that nothing would be trained again."""
    if isinstance(study.retrain, bool):
        return
    known: dict[str, tuple[Any, ...]] = {
        "estimators": study.estimators,
        "baselines": ("all", "loss", *study.baselines),
        "layers": study.layers,
        "aggregations": tuple(a.name for a in study.aggregations),
        "only": study.only,
        "seeds": study.seeds,
    }
    for what, there in known.items():
        if what not in study.retrain.model_fields_set:
            continue
        for i, entry in enumerate(getattr(study.retrain, what)):
            if entry not in there:
                text = f"retrain.{what}: {entry} is not among the {what} of the study: {', '.join(map(str, there))}"
                yield ("retrain", what, i), text
