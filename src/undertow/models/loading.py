"""Loading a model, its adapter and its tokenizer, from safetensors or GGUF only."""

import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from undertow.errors import ModelError
from undertow.models.architectures import fresh_modules, head_parameter_names
from undertow.models.quiet import quiet_loading
from undertow.models.sources import ModelSource, first_line


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
            f"The adapter in {adapter} does not fit its base model with {classes} classes: {first_line(error)} "
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
        f"({', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}): {first_line(error)} Accepted are "
        "weights in safetensors or GGUF, with a head of as many classes as the training data or none "
        "(--finetune always makes a new one), and the model's tokenizer beside them. "
        "A pickle checkpoint is converted by loading it where you trust it and calling save_pretrained."
    )


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over all parameters of a model, by name: equal for equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
