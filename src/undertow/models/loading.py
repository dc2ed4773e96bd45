"""Loading a model, its adapter and its tokenizer, from safetensors or GGUF only."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from undertow.errors import ModelError
from undertow.models.architectures import fresh_modules, head_parameter_names
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

    ``trained_head`` and ``trained_adapter`` say what came with the weights; what did not was initialised, and
    ``fresh`` names the layers in front of the head's last one of which that is true.
    """

    model: nn.Module
    tokenizer: object
    source: ModelSource | None
    trained_head: bool
    trained_adapter: bool
    notes: tuple[str, ...] = field(default=())
    fresh: tuple[str, ...] = field(default=())


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
    new_head: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a classification model; a head that the weights lack is initialised from ``seed``.

    With ``new_head`` that also happens to a head of another size, which is refused otherwise. The model is
    returned in eval mode, on the CPU.

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
                ignore_mismatched_sizes=True,  # judged below, where they can be named
                **arguments,
            )
            tokenizer = AutoTokenizer.from_pretrained(source.base, **arguments)
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
            raise ModelError(_loading_failed(source, classes, error)) from error
    mismatched = {k[0] for k in info["mismatched_keys"]}
    _check_shapes(source, classes, mismatched, new_head=new_head or source.adapter is not None)
    notes = prepare_tokenizer(model, tokenizer)
    trained_head = not head_parameter_names(set(info["missing_keys"]) | mismatched)
    if source.adapter is not None and use_adapter:
        model = with_adapter(model, source.adapter, len(classes))
        trained_head = True
    model.eval()
    adapted = source.adapter is not None and use_adapter
    return LoadedModel(model, tokenizer, source, trained_head, adapted, notes, fresh_modules(info["missing_keys"]))


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/undertow``, or ``~/.cache/undertow``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undertow"


def prepare_tokenizer(model: nn.Module, tokenizer: object) -> tuple[str, ...]:
    """Make sure that a model and its tokenizer go together and have a pad token; says what was done, in words.

    Raises:
        ModelError: for a tokenizer without a vocabulary or of another model.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()  # type: ignore[attr-defined]
    if not set(vocabulary) - set(tokenizer.all_special_tokens):  # type: ignore[attr-defined]
        raise ModelError(
            "The tokenizer knows no words: its vocabulary file is missing, so every text would look the same. Copy "
            "tokenizer.json (or the vocabulary files) of the model into its folder, as save_pretrained of the "
            "tokenizer writes it."
        )
    notes = _give_pad_token(model, tokenizer)
    known = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    highest = max(vocabulary.values())
    if highest >= known:
        raise ModelError(
            f"The tokenizer gives token ids up to {highest}, the model knows {known} tokens. They are not of the "
            "same model, or tokens were added and the model was not resized. Pass the tokenizer that belongs to it."
        )
    return notes


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
            f"{file} cannot be read: {_first_line(error)} It is the JSON that save_pretrained of an adapter writes; "
            "save the adapter again."
        ) from error
    return str(base) if base else None


def _check_shapes(source: ModelSource, classes: tuple[str, ...], mismatched: set[str], *, new_head: bool) -> None:
    """A head may have another size where it is made anew; nothing else may."""
    others = sorted(mismatched - set(head_parameter_names(mismatched)))
    if others:
        raise ModelError(
            f"The weights of '{source.base}' do not have the shapes that its config.json says "
            f"({', '.join(others[:5])}). Take config.json and the weights from the same save_pretrained."
        )
    if mismatched and not new_head:
        raise ModelError(
            f"The model '{source.base}' has a trained head, but not for {len(classes)} classes as the training data "
            f"has them ({', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}). Give data with the model's "
            "classes, or pass --finetune always to train a new head."
        )


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
            f"The model '{base}' cannot be had: {_first_line(error)} --model takes a hub id (with access to the "
            "hub, or already in its cache), a local folder, or a .gguf file."
        ) from error
    architectures = config.architectures or []
    return class_names(config) if any("SequenceClassification" in a for a in architectures) else None


def class_names(config: Any) -> tuple[str, ...] | None:
    """What a classifier's configuration calls its outputs, in their order; None where they only have numbers."""
    names = tuple(str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels))
    return None if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names


def with_adapter(model: nn.Module, adapter: Path, classes: int) -> nn.Module:
    """Put a saved PEFT adapter on its base model, in eval mode.

    Raises:
        ModelError: when the two do not fit.
    """
    from peft import PeftModel

    try:
        with quiet_loading():
            # Where its keys match no layer, peft leaves lora_B at zero and says no more than this.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            loaded: nn.Module = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
    except UserWarning as error:
        raise ModelError(
            f"The adapter in {adapter} does not fit its base model: it lacks weights for layers that it should adapt, "
            "so it was made for another architecture or another task. Pass an adapter of a sequence classifier, or "
            "--finetune always to train a new one."
        ) from error
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
        "weights in safetensors or GGUF, with a head of as many classes as the training data or none "
        "(--finetune always makes a new one), and the model's tokenizer beside them. "
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
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
