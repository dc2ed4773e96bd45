"""The run folder: what an audit reads and writes, guarded by ``run.json``."""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from undertow.errors import RunFolderError
from undertow.pipeline.stages import measured

MANIFEST = "run.json"
_PACKAGES = ("undertow", "torch", "transformers", "peft", "datasets", "numpy", "xarray", "zarr")
# All that undertow puts in a run folder; overwriting removes these and nothing else.
_CONTENTS = (
    MANIFEST,
    "adapter",
    "checkpoints",
    "gradients",
    "influence.zarr",
    "harm.parquet",
    "heldout.parquet",
    "cleaned.jsonl",
    "removed.jsonl",
    "report.html",
)


class RunFolder:
    """A folder with a manifest that says what was asked for and which stages are done."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, configuration: Mapping[str, Any], *, overwrite: bool = False) -> "RunFolder":
        """Start a run folder, or go on with one that was started with the same configuration.

        Raises:
            RunFolderError: when the folder holds something else; nothing is changed then.
        """
        wanted = json.loads(json.dumps(configuration))
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; --out takes a folder. Name another one.")
        if path.is_dir() and any(path.iterdir()):
            existing = cls.read(path)
            if not overwrite:
                _same_or_raise(path, existing.manifest["configuration"], wanted)
                return existing
            existing._clear()
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, _new_manifest(wanted))
        folder.save()
        return folder

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            RunFolderError: when the folder is not one, or its manifest cannot be read.
        """
        file = path / MANIFEST
        if not file.is_file():
            raise RunFolderError(
                f"{path} holds files but no {MANIFEST}, so it is not a run folder and nothing in it is touched. "
                "Give --out a new or empty folder."
            )
        try:
            manifest = json.loads(file.read_text())
            manifest["configuration"], manifest["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{file} cannot be read ({error}), so what the folder holds is not known and nothing in it is "
                "touched. Give --out a new folder, or delete this one."
            ) from error
        return cls(path, manifest)

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return stage in self.manifest["stages"]

    def outputs(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded."""
        recorded: dict[str, Any] = self.manifest["stages"][stage]["outputs"]
        return recorded

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Run a stage; the yielded dict takes its outputs. It is recorded only when it ends well."""
        outputs: dict[str, Any] = {}
        with measured() as cost:
            yield outputs
        self.manifest["stages"][name] = {
            "seconds": round(cost.seconds, 3),
            "peak_memory_mb": round(cost.peak_memory_mb, 1),
            "outputs": outputs,
        }
        self.save()

    def verify(self, fingerprints: Mapping[str, str]) -> None:
        """Record the fingerprints of the data, or compare them with those of the run that is resumed.

        Raises:
            RunFolderError: when the data is not what the run was started with.
        """
        known = self.manifest.setdefault("fingerprints", dict(fingerprints))
        changed = [name for name in fingerprints if known.get(name) != fingerprints[name]]
        if changed:
            raise RunFolderError(
                f"{self.path} was started with other data: {', '.join(changed)} changed since. Use a new --out, "
                "or --overwrite to start this one again."
            )
        self.save()

    def save(self) -> None:
        """Write the manifest so that a reader never sees half of it."""
        temporary = self.path / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")
        temporary.replace(self.path / MANIFEST)

    def _clear(self) -> None:
        for name in _CONTENTS:
            item = self.path / name
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)


def _new_manifest(configuration: dict[str, Any]) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": configuration,
        "seeds": {"seed": configuration.get("seed")},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        "stages": {},
    }


def _same_or_raise(path: Path, existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = sorted(set(existing) | set(wanted))
    differing = [n for n in names if existing.get(n) != wanted.get(n)]
    if differing:
        told = "; ".join(f"{n} was {existing.get(n)!r}, now {wanted.get(n)!r}" for n in differing[:5])
        raise RunFolderError(
            f"{path} holds a run with another configuration ({told}). Nothing in it was touched. Use a new "
            "--out, or --overwrite to replace it."
        )
