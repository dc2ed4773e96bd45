"""Reading a study from YAML: every fault at once, each with its line."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from undertow.errors import ConfigError
from undertow.study.config import Study
from undertow.study.faults import joint_faults

# A line of the file, and what is wrong there.
Fault = tuple[int, str]
# In place of fields that are needed and at fault, so that the others can be looked at together.
_STAND_INS: dict[str, Any] = {"models": {"model": "model"}, "tasks": ["sst2"]}


def read_study(path: Path) -> Study:
    """A study from a YAML file. Files that it names are looked for beside it.

    Raises:
        ConfigError: when it cannot be read, or is no study; names every fault with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(
            f"{path} cannot be read: {reason}. undertow experiment takes a YAML file; --template small writes one."
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{where}: {what}. The file is not valid YAML; mend that line.") from error
    if not isinstance(given, dict):
        raise ConfigError(
            f"{path} holds {type(given).__name__} and not names with values. undertow experiment --template small "
            "writes a study to start from."
        )
    faults = _repeated(node)
    study = _validated(given, node, faults)
    if study is None or faults:
        told = " ".join(f"Line {line}: {text}." for line, text in sorted(set(faults)))
        count = len(set(faults))
        raise ConfigError(f"{path} has {count} fault{'s' * (count > 1)}. {told}")
    return _beside(study, path.resolve().parent)


def _validated(given: dict[str, Any], node: Any, faults: list[Fault]) -> Study | None:
    """The study, its faults added to the others; what is at fault alone does not hide what is at fault together."""
    apart, bad, study = {"apart": True}, set[str](), None
    try:
        study = Study.model_validate(given, context=apart)
    except ValidationError as error:
        errors = [e for e in error.errors() if e["loc"][-1:] != ("bool",)] or error.errors()
        faults += [_fault(e, node) for e in errors]
        bad = {str(e["loc"][0]) for e in errors if e["loc"]}
        rest = {name: value for name, value in given.items() if name not in bad}
        with suppress(ValidationError):
            study = Study.model_validate({**_STAND_INS, **rest}, context=apart)
    if study is not None:
        faults += [(_line(node, place), text) for place, text in joint_faults(study) if place[0] not in bad]
    return study


def _repeated(node: Any) -> list[Fault]:
    """Names that are there twice side by side, of which YAML takes the last without a word."""
    found: list[Fault] = []
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        for i, (key, value) in enumerate(node.value):
            if key.value in names[:i]:
                found.append((key.start_mark.line + 1, f"{key.value} is there twice; keep one of them"))
            found += _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            found += _repeated(item)
    return found


def _fault(error: Any, node: Any) -> Fault:
    loc = [part for part in error["loc"] if not (isinstance(part, str) and part in ("bool", "Retraining"))]
    line = _line(node, loc)
    name = ".".join(map(str, loc)) or "the study"
    if error["type"] == "extra_forbidden":
        known = ", ".join(Study.model_fields) if len(loc) == 1 else "see docs/experiment.md"
        return line, f"there is no '{name}'; known are: {known}"
    if error["type"] == "missing":
        return line, f"{name} is missing"
    came = error["input"]
    shown = f" ({came!r})" if isinstance(came, str | int | float) else ""
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return line, f"{name}{shown}: {message[0].lower()}{message[1:]}"


def _line(node: Any, loc: Sequence[Any]) -> int:
    """The line of the innermost part of a location that the file holds."""
    line: int = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in reversed(node.value):  # of two that are alike, the last counts
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _beside(study: Study, folder: Path) -> Study:
    """Relative paths are those of the folder of the file, where there is something there."""

    def placed(name: str) -> str:
        here = folder / name
        return str(here) if not Path(name).is_absolute() and here.exists() else name

    tasks = tuple(
        t.model_copy(
            update={f: folder / p for f in ("train", "validation", "test") if (p := getattr(t, f)) is not None}
        )
        for t in study.tasks
    )
    models = {name: placed(model) for name, model in study.models.items()}
    data = study.data if study.data == "hub" else str(folder / study.data)
    return study.model_copy(update={"tasks": tasks, "models": models, "data": data})
