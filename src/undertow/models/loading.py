"""Loading a model, its adapter and its tokenizer, from safetensors or GGUF only."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from undertow.errors import ModelError
from undertow.models.architectures import head_parameter_names
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


@dataclass(frozen=True)
class LoadedModel:
    """A sequence classification model with its tokenizer.

    ``trained_head`` and ``trained_adapter`` say what came with the weights; what did not was initialised.
    """

    model: nn.Module
    tokenizer: object
    source: ModelSource | None
    trained_head: bool
    trained_adapter: bool
    notes: tuple[str, ...] = field(default=())


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


def load_model(
    source: ModelSource,
    classes: tuple[str, ...],
    *,
    use_adapter: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a classification model; a head that the weights lack is initialised from ``seed``.

    The model is returned in eval mode, on the CPU.

    Raises:
        ModelError: when the weights cannot be loaded safely, or do not fit the number of classes.
    """
    torch.manual_seed(seed)
    arguments = {"trust_remote_code": trust_remote_code}
    with quiet_loading():
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source.base,
                num_labels=len(classes),
                id2label=dict(enumerate(classes)),
                label2id={c: i for i, c in enumerate(classes)},
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **arguments,
            )
            tokenizer = AutoTokenizer.from_pretrained(source.base, **arguments)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(_loading_failed(source, classes, error)) from error
    missing = set(info["missing_keys"]) | {k[0] for k in info["mismatched_keys"]}
    notes = _give_pad_token(model, tokenizer)
    trained_head = not head_parameter_names(missing)
    if source.adapter is not None and use_adapter:
        model = with_adapter(model, source.adapter, len(classes))
        trained_head = True
    model.eval()
    return LoadedModel(model, tokenizer, source, trained_head, source.adapter is not None and use_adapter, notes)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/undertow``, or ``~/.cache/undertow``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undertow"


def prepare_tokenizer(model: nn.Module, tokenizer: object) -> tuple[str, ...]:
    """Make sure that a model and its tokenizer agree on a pad token; returns what was done, in words."""
    return _give_pad_token(model, tokenizer)


def _resolve_folder(
    spec: str, path: Path, cache: Path | None, trust_remote_code: bool, say: Callable[[str], None]
) -> ModelSource:
    if (path / "adapter_config.json").is_file():
        _refuse_pickles(path, "adapter_model")
        base = json.loads((path / "adapter_config.json").read_text()).get("base_model_name_or_path")
        if not base:
            raise ModelError(
                f"The adapter in {spec} does not name its base model. Add base_model_name_or_path to its "
                "adapter_config.json: a hub id or a local folder."
            )
        resolved = resolve_model(base, cache=cache, trust_remote_code=trust_remote_code, say=say)
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
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The model '{base}' cannot be had: {_first_line(error)} --model takes a hub id (with access to the "
            "hub, or already in its cache), a local folder, or a .gguf file."
        ) from error
    architectures = config.architectures or []
    if not any("SequenceClassification" in a for a in architectures):
        return None
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return None if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names


def with_adapter(model: nn.Module, adapter: Path, classes: int) -> nn.Module:
    """Put a saved PEFT adapter on its base model, in eval mode.

    Raises:
        ModelError: when the two do not fit.
    """
    from peft import PeftModel

    try:
        with quiet_loading():
            loaded: nn.Module = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise ModelError(
            f"The adapter in {adapter} does not fit its base model with {classes} classes: {_first_line(error)} "
            "Check that the training data has the classes that the adapter was trained with, or pass "
            "--finetune always to train a new one."
        ) from error
    return loaded.eval()


def _give_pad_token(model: nn.Module, tokenizer: object) -> tuple[str, ...]:
    """Batches need a pad token; decoders often have none, or have one only in the tokenizer."""
    notes = []
    if tokenizer.pad_token_id is None:  # type: ignore[attr-defined]
        if tokenizer.eos_token_id is None:  # type: ignore[attr-defined]
            raise ModelError("The tokenizer has neither a pad nor an end-of-text token, so batches cannot be padded.")
        tokenizer.pad_token = tokenizer.eos_token  # type: ignore[attr-defined]
        notes.append(f"The tokenizer has no pad token; {tokenizer.eos_token} pads instead.")  # type: ignore[attr-defined]
    tokenizer.padding_side = "right"  # type: ignore[attr-defined]
    model.config.pad_token_id = tokenizer.pad_token_id  # type: ignore[attr-defined, union-attr]
    return tuple(notes)


def _loading_failed(source: ModelSource, classes: tuple[str, ...], error: Exception) -> str:
    return (
        f"The model '{source.base}' could not be loaded as a classifier of {len(classes)} classes "
        f"({', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}): {_first_line(error)} Accepted are "
        "weights in safetensors or GGUF, with a head of as many classes as the training data or none. "
        "A pickle checkpoint is converted by loading it where you trust it and calling save_pretrained."
    )


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if text.endswith((".", "!", "?")) else text + "."


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over all parameters of a model, by name: equal for equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
