"""What modules were reduced to, kept for the next question: in memory, or in a folder that outlives the process."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

MANIFEST = "reductions.json"


@runtime_checkable
class Reductions(Protocol):
    """Sums over each cell of queries, [cell, sample], by name and module."""

    def has(self, name: str, module: int) -> bool:
        """Whether one is kept."""

    def get(self, name: str, module: int) -> Float[np.ndarray, "cell sample"]:
        """One that is kept."""

    def put(self, name: str, module: int, values: Float[np.ndarray, "cell sample"]) -> None:
        """Keep one, or not: what is not there is computed again."""


class InMemory:
    """Keeps reductions up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._left, self._held = limit, dict[tuple[str, int], np.ndarray]()

    def has(self, name: str, module: int) -> bool:
        """Whether one is kept."""
        return (name, module) in self._held

    def get(self, name: str, module: int) -> Float[np.ndarray, "cell sample"]:
        """One that is kept."""
        return self._held[name, module]

    def put(self, name: str, module: int, values: Float[np.ndarray, "cell sample"]) -> None:
        """Keep one while there is room."""
        if values.nbytes <= self._left:
            self._left -= values.nbytes
            self._held[name, module] = values


class OnDisk:
    """Keeps reductions as files of a folder, which belong to one tensor and one parting of its queries into cells.

    Args:
        folder: is made when something is kept; emptied where it belongs to another tensor.
        identity: what the reductions depend on.
        say: told once when the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: str, say: Callable[[str], None] = lambda text: None) -> None:
        self._folder, self._identity, self._say, self._writes = folder, identity, say, True
        self._ours = self._told() == identity

    def _told(self) -> str | None:
        try:
            told: str | None = json.loads((self._folder / MANIFEST).read_text()).get("identity")
        except (OSError, ValueError, AttributeError):
            return None
        return told

    def _file(self, name: str, module: int) -> Path:
        return self._folder / name / f"{module}.npy"

    def has(self, name: str, module: int) -> bool:
        """Whether one is kept."""
        return self._ours and self._file(name, module).is_file()

    def get(self, name: str, module: int) -> Float[np.ndarray, "cell sample"]:
        """One that is kept."""
        values: np.ndarray = np.load(self._file(name, module), allow_pickle=False)
        return values

    def put(self, name: str, module: int, values: Float[np.ndarray, "cell sample"]) -> None:
        """Keep one; where the folder cannot be written, say so and go on without."""
        if not self._writes:
            return
        try:
            self._begin()
            file = self._file(name, module)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp")
            with temporary.open("wb") as handle:
                np.save(handle, values)
            temporary.replace(file)
        except OSError as error:
            self._writes = False
            with suppress(OSError):
                file.with_suffix(".tmp").unlink(missing_ok=True)
            self._say(
                f"Reductions cannot be kept in {self._folder} ({error.strerror or error}), so they are computed each "
                "time."
            )

    def _begin(self) -> None:
        if self._ours:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / MANIFEST).write_text(json.dumps({"identity": self._identity}) + "\n")
        self._ours = True


def identity(*parts: str | bytes | np.ndarray) -> str:
    """Hash of what reductions depend on."""
    text = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.tobytes()
        text.update(len(data).to_bytes(8, "little") + data)
    return text.hexdigest()
