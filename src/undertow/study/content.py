"""What a study depends on outside of its file: the content of models and data on this machine."""

import hashlib
from functools import cache
from pathlib import Path

from undertow.study.config import Study, Task


@cache
def content(source: str) -> str:
    """What a source holds: of a local file or folder a hash of its content, of anything else its name.

    Read once in a process, however many cells ask.
    """
    path = Path(source)
    try:
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        if not path.exists():
            return source
        found = hashlib.sha256()
        for file in files:
            # A folder is what its files are called and hold, wherever it lies; a file is read by its ending.
            found.update((file.relative_to(path).as_posix() if path.is_dir() else file.suffix).encode() + b"\0")
            with file.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError:  # whatever cannot be read, loading it says so, and says what to do
        return source
    return found.hexdigest()


def task_content(study: Study, task: Task) -> list[str]:
    """What the files of a task hold."""
    if task.train is not None:
        return [content(str(file)) for file in (task.train, task.validation, task.test) if file is not None]
    own = [content(str(task.test))] if task.test is not None else []
    if study.data == "hub":
        return ["hub", *own]
    return [content(str(Path(study.data) / task.name / f"{split}.jsonl")) for split in ("train", "validation")] + own
