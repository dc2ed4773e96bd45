"""Dequantising a GGUF file once into a folder of safetensors."""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from undertow.errors import ModelError
from undertow.models.quiet import quiet_loading


def dequantised(file: Path, cache: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """Folder with the dequantised model and tokenizer of a GGUF file, in float32.

    The folder is named by the file's content, written once and reused; a half-written one is never seen,
    because it is renamed into place when it is whole.

    Raises:
        ModelError: when transformers cannot read the file.
    """
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache / "gguf" / f"{file.stem}-{content[:16]}"
    if (folder / "config.json").is_file():
        return folder
    say(f"Dequantising {file.name} into {folder} (once; later runs reuse it) …")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        _convert(file, temporary)
        if not folder.exists():  # another process may have been faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet_loading(), contextlib.redirect_stderr(io.StringIO()):  # its bar is not transformers' own kind
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
    except Exception as error:  # the loader raises whatever its parsers raise; the cause stays attached
        raise ModelError(
            f"The GGUF file {file} could not be read by transformers: {error} Accepted are the architectures "
            "and quantisations that its GGUF loader knows; otherwise pass the original model in safetensors."
        ) from error
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
