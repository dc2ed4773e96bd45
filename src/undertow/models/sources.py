"""Where a model comes from: hub ids, folders, adapters and GGUF files, told apart without loading weights."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from undertow.errors import ModelError
from undertow.models.gguf import dequantised
from undertow.models.quiet import quiet_loading

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Written beside an adapter that undertow trained: PEFT does not keep the class names.
CLASSES_FILE = "undertow.json"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, resolved but not loaded.

    Attributes:
        spec: what the user wrote.
        base: folder or hub id of the base model.
        adapter: folder of a PEFT adapter on it, or None.
        classes: class names the trained head was trained with, or None where unknown.
    """

    spec: str
    base: str
    adapter: Path | None = None
    classes: tuple[str, ...] | None = None


def resolve_model(
    spec: str,
    *,
    cache: Path | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ModelSource:
    """Find out what a model argument names, without loading weights.

    Args:
        spec: hub id, local folder, folder with a PEFT adapter, or a ``.gguf`` file.
        cache: where a GGUF file is dequantised to; default ``$XDG_CACHE_HOME/undertow``.
        trust_remote_code: passed on to transformers.
        say: told when something takes long.

    Raises:
        ModelError: for a missing path, a pickle-only checkpoint, or a folder without a model.
    """
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {spec}. --model takes a hub id, a local folder, or a .gguf file.")
        return ModelSource(spec, str(dequantised(path, cache or cache_folder(), say)))
    if path.is_dir():
        return _resolve_folder(spec, path, cache, trust_remote_code, say)
    if path.exists():
        raise ModelError(f"{spec} is a file. --model takes a hub id, a folder with safetensors, or a .gguf file.")
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise ModelError(f"There is no folder {spec}. --model takes a hub id, a local folder, or a .gguf file.")
    return ModelSource(spec, spec, classes=_config_classes(spec, trust_remote_code))


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/undertow``, or ``~/.cache/undertow``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undertow"


def class_names(config: Any) -> tuple[str, ...] | None:
    """What a classifier's configuration calls its outputs, in their order; None where they only have numbers."""
    names = tuple(str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels))
    return None if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names


def first_line(error: Exception) -> str:
    """The first line of what a library complains of, as a sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if text.endswith((".", "!", "?")) else text + "."


def _resolve_folder(
    spec: str, path: Path, cache: Path | None, trust_remote_code: bool, say: Callable[[str], None]
) -> ModelSource:
    if (path / "adapter_config.json").is_file():
        _refuse_pickles(path, "adapter_model")
        base = _base_of(path / "adapter_config.json")
        if not base:
            raise ModelError(
                f"The adapter in {spec} does not name its base model. Add base_model_name_or_path to its "
                "adapter_config.json: a hub id or a local folder."
            )
        try:
            resolved = resolve_model(base, cache=cache, trust_remote_code=trust_remote_code, say=say)
        except ModelError as error:
            raise ModelError(
                f"The adapter in {spec} belongs to the base model '{base}', which cannot be had: {error} Bring it "
                "there, or correct base_model_name_or_path in the adapter's adapter_config.json."
            ) from error
        if resolved.adapter:
            raise ModelError(f"The adapter in {spec} sits on another adapter, {base}. Merge that one first.")
        return ModelSource(spec, resolved.base, path, _adapter_classes(path) or resolved.classes)
    if not (path / "config.json").is_file():
        ggufs = sorted(p.name for p in path.glob("*.gguf"))
        hint = f" It holds {', '.join(ggufs)}: name that file itself." if ggufs else ""
        raise ModelError(
            f"The folder {spec} holds neither config.json nor adapter_config.json, so it is not a model.{hint} "
            "--model takes a hub id, a folder written by save_pretrained, or a .gguf file."
        )
    _refuse_pickles(path, "model")
    return ModelSource(spec, str(path), classes=_config_classes(str(path), trust_remote_code))


def _base_of(file: Path) -> str | None:
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{file} cannot be read: {first_line(error)} It is the JSON that save_pretrained of an adapter writes; "
            "save the adapter again."
        ) from error
    return str(base) if base else None


def _refuse_pickles(path: Path, stem: str) -> None:
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise ModelError(
            f"{path} holds its weights as pickle files only ({', '.join(pickles)}), which can run code when "
            "they are loaded. Accepted are safetensors. Convert once, on a machine where you trust the file: "
            f"load the model and call save_pretrained(folder), which writes {stem}.safetensors."
        )
    raise ModelError(f"{path} holds no weights. Expected is {stem}.safetensors, as save_pretrained writes it.")


def _adapter_classes(path: Path) -> tuple[str, ...] | None:
    file = path / CLASSES_FILE
    return tuple(json.loads(file.read_text())["classes"]) if file.is_file() else None


def _config_classes(base: str, trust_remote_code: bool) -> tuple[str, ...] | None:
    """Class names in a model's configuration, where its head was trained with names."""
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The model '{base}' cannot be had: {first_line(error)} --model takes a hub id (with access to the "
            "hub, or already in its cache), a local folder, or a .gguf file."
        ) from error
    architectures = config.architectures or []
    return class_names(config) if any("SequenceClassification" in a for a in architectures) else None
