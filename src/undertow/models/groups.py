"""Layer groups: selecting tracked modules by a short expression."""

import re
from collections.abc import Callable, Sequence

from undertow.errors import ConfigError
from undertow.models.keys import ModuleKey

_RANGE = re.compile(r"^(\d+)-(\d+)$")


def _part(key: ModuleKey, layers: int, parts: int) -> int | None:
    """0-based part a module falls in when the layers are cut into equal parts; None outside layers."""
    return None if key.layer is None else key.layer * parts // layers


Rule = Callable[[ModuleKey, int], bool]


def _has(attribute: str, value: str) -> Rule:
    return lambda key, n: getattr(key, attribute) == value


# Quarters att1..att4 are the paper's; thirds serve who does not care for the exact cut. "all" is what fine-tuning
# changed: frozen word embeddings are tracked beside it and named on their own, as the paper's WE.
GROUPS: dict[str, Rule] = {
    "all": lambda key, n: key.trained,
    **{k: _has("kind", k) for k in ("attention", "mlp", "norm", "embedding", "head")},
    "att1": lambda key, n: key.kind == "attention" and _part(key, n, 4) == 0,
    "att2": lambda key, n: key.kind == "attention" and _part(key, n, 4) == 1,
    "att3": lambda key, n: key.kind == "attention" and _part(key, n, 4) == 2,
    "att4": lambda key, n: key.kind == "attention" and _part(key, n, 4) == 3,
    "early": lambda key, n: _part(key, n, 3) == 0,
    "middle": lambda key, n: _part(key, n, 3) == 1,
    "late": lambda key, n: _part(key, n, 3) == 2,
    **{p: _has("projection", p) for p in ("query", "key", "value", "output")},
    **{s: _has("side", s) for s in ("lora_A", "lora_B")},
}

# What the harm table shows beside the chosen group.
PROFILE_GROUPS = ("embedding", "att1", "att2", "att3", "att4", "head", "all")


def check_layers(expression: str) -> None:
    """Check the form of a layer expression before any model is loaded.

    Raises:
        ConfigError: for an unknown group or a range that runs backwards.
    """
    for part in _parts(expression):
        _rule(part)


def select_modules(keys: Sequence[ModuleKey], expression: str | Callable[[ModuleKey], bool]) -> list[int]:
    """Positions of the modules that a layer expression selects, ascending.

    An expression is one or several of: a group name (see `GROUPS`), a layer range such as ``0-7`` (both
    ends included), a layer number, a module name as `ModuleKey.name` has it, or ``re:`` and a regular expression
    that is searched in module names; separated by commas. Or it is a function that says yes or no to a key.

    Raises:
        ConfigError: for an unknown name, or when nothing is selected.
    """
    layers = 1 + max((k.layer for k in keys if k.layer is not None), default=-1)
    names = {k.name for k in keys}
    if callable(expression):
        picked = [i for i, key in enumerate(keys) if expression(key)]
        if not picked:
            raise ConfigError(f"The function given for the layers selects none of the {len(keys)} tracked modules.")
        return picked
    chosen: set[int] = set()
    for part in _parts(expression):
        rule = (lambda key, n, part=part: key.name == part) if part in names else _rule(part)
        hits = {i for i, key in enumerate(keys) if rule(key, layers)}
        if not hits:
            there = sorted({k.kind for k in keys})
            raise ConfigError(
                f"--layers {part} selects none of the {len(keys)} tracked modules. This model has {layers} "
                f"adapted layers and modules of kind {', '.join(there)}; see its modules in run.json."
            )
        chosen |= hits
    return sorted(chosen)


def available_groups(keys: Sequence[ModuleKey], groups: Sequence[str] = PROFILE_GROUPS) -> dict[str, list[int]]:
    """Those of some groups that hold at least one module, with the positions of their modules."""
    layers = 1 + max((k.layer for k in keys if k.layer is not None), default=-1)
    held = {g: [i for i, key in enumerate(keys) if GROUPS[g](key, layers)] for g in groups}
    return {g: positions for g, positions in held.items() if positions}


def _parts(expression: str) -> list[str]:
    parts = [p.strip() for p in expression.split(",") if p.strip()]
    if not parts:
        raise ConfigError(f"--layers is empty. Give one or several of: {', '.join(GROUPS)}, or a range such as 0-7.")
    return parts


def _rule(part: str) -> Rule:
    if part in GROUPS:
        return GROUPS[part]
    span = _RANGE.match(part) or re.match(r"^(\d+)()$", part)
    if span:
        first, last = int(span[1]), int(span[2] or span[1])
        if first > last:
            raise ConfigError(f"--layers {part} runs backwards. Write the smaller layer first: {last}-{first}.")
        return lambda key, n: key.layer is not None and first <= key.layer <= last
    if part.startswith("re:"):
        pattern = _pattern(part)
        return lambda key, n: pattern.search(key.name) is not None
    if "." in part or _names_head(part):  # a module name; whether it exists is known once the model is loaded
        return lambda key, n: key.name == part
    raise ConfigError(
        f"--layers {part} is not known. Known are: {', '.join(GROUPS)}, a layer number, a range such as 0-7, "
        "a module name, or re: and a regular expression; several are separated by commas."
    )


def _names_head(part: str) -> bool:
    from undertow.models.architectures import is_head  # loads torch, so only for what is no group

    return is_head(part)


def _pattern(part: str) -> re.Pattern[str]:
    try:
        return re.compile(part.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(f"--layers {part} is not a regular expression: {error}. A comma separates groups.") from error
