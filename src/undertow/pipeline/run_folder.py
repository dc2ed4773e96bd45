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

from filelock import FileLock, Timeout

from undertow.errors import RunFolderError
from undertow.pipeline.stages import measured

MANIFEST = "run.json"
# What the process at work in a folder holds; the system lets go of it when the process ends, however it ends.
_LOCK = ".lock"
_PACKAGES = ("undertow", "torch", "transformers", "peft", "datasets", "numpy", "xarray", "zarr")
# What a kill in the middle of writing leaves, and what is of no use once a run is finished.
_REMAINS = (
    "checkpoints",
    "gradients",
    "scratch",
    f"{MANIFEST}.tmp",
    "probes.npz.tmp",
    "harm.parquet.tmp",
    "cancellation.parquet.tmp",
    "layers.*.tmp",
    "compare.*.tmp",
    "choices.parquet.tmp",
    "cuts.parquet.tmp",
    "heldout.tmp",
    ".cleaned.jsonl.*.tmp",
    ".removed.jsonl.*.tmp",
    ".report.html.*.part",
)
# All that undertow puts in a run folder; overwriting removes these and nothing else.
_CONTENTS = (
    MANIFEST,
    "probes.npz",
    "adapter",
    "recorded",
    "dynamics.npy",
    "influence.zarr",
    "cancellation.parquet",
    "reductions",
    "scores",
    "harm.parquet",
    "heldout.parquet",
    "choices.parquet",
    "cuts.parquet",
    "cleaned.jsonl",
    "removed.jsonl",
    "report.html",
    "layers.parquet",
    "layers.html",
    "compare.parquet",
    "compare.html",
)


class RunFolder:
    """A folder with a manifest that says what was asked for and which stages are done."""

    def __init__(self, path: Path, manifest: dict[str, Any], opened: str | None = None) -> None:
        """``opened`` is what ``run.json`` held when it was looked at; None where there was none."""
        self.path = path
        self.manifest = manifest
        self._opened = opened

    @classmethod
    def open(cls, path: Path, configuration: Mapping[str, Any], *, overwrite: bool = False) -> "RunFolder":
        """A new run, or one to go on with that was started with the same configuration.

        Nothing is written, and nothing that is replaced is deleted, before `begin`.

        Raises:
            RunFolderError: when the folder holds something else.
        """
        wanted = json.loads(json.dumps(configuration))
        try:
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path} is a file; --out takes a folder. Name another one.")
            held = path.is_dir() and any(item.name not in (f"{MANIFEST}.tmp", _LOCK) for item in path.iterdir())
        except OSError as error:
            raise _unusable(path, error) from error
        if held:
            existing = cls.read(path)
            if overwrite:
                return cls(path, _new_manifest(wanted), existing._opened)
            _same_or_raise(path, existing.manifest["configuration"], wanted)
            return existing
        return cls(path, _new_manifest(wanted))

    @contextmanager
    def begin(self, fingerprints: Mapping[str, str]) -> Iterator[None]:
        """Write the folder of a new run, or compare the data of one that goes on; the stages run inside.

        A run that fails before it has a stage, a checkpoint or gradients to keep leaves nothing: the command may be
        corrected and given again with the same folder. One process at a time is at work in a folder.

        Raises:
            RunFolderError: when the folder cannot be written, another process is or was at work in it since it was
                opened, or the data is not what the run was started with.
        """
        with self._alone():
            if "fingerprints" not in self.manifest:
                self._found()
            self.verify(fingerprints)
            try:
                yield
            except BaseException:
                begun = ("checkpoints/*/*", "gradients/*/manifest.json")
                if not self.manifest["stages"] and not any(any(self.path.glob(pattern)) for pattern in begun):
                    self._empty()
                raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        file = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file).acquire(blocking=False)
        except Timeout as error:
            raise RunFolderError(
                f"Another process is at work in {self.path}. Nothing in it was touched. Wait until it ends, or give "
                "another --out."
            ) from error
        except OSError as error:
            raise _unusable(self.path, error) from error
        with lock:
            try:
                if self._on_disk() != self._opened:
                    raise RunFolderError(
                        f"Another process was at work in {self.path} while this one prepared. Nothing in it was "
                        "touched. Give the command again to go on from there."
                    )
                yield
            finally:
                file.unlink(missing_ok=True)

    def _on_disk(self) -> str | None:
        file = self.path / MANIFEST
        return file.read_text() if file.is_file() else None

    def _found(self) -> None:
        try:
            self._empty()
            self.manifest["fingerprints"] = {}
            self.save()
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _empty(self) -> None:
        self._remove(*_CONTENTS)
        self.sweep()

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
            opened = file.read_text()
            manifest = json.loads(opened)
            manifest["configuration"], manifest["stages"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{file} cannot be read ({error}), so what the folder holds is not known and nothing in it is "
                "touched. Give --out a new folder, or delete this one."
            ) from error
        return cls(path, manifest, opened)

    @classmethod
    def made(cls, path: Path) -> "RunFolder":
        """A run folder that a command reads, whatever stages it has.

        Raises:
            RunFolderError: when it is none.
        """
        if not (path / MANIFEST).is_file():
            what = "does not exist" if not path.exists() else f"holds no {MANIFEST}"
            raise RunFolderError(
                f"{path} is not a run folder: it {what}. Give the folder that undertow audit wrote to (its --out)."
            )
        return cls.read(path)

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
        """Record fingerprints of data or model; compare those that are recorded already.

        Raises:
            RunFolderError: when one is not what the run was started with.
        """
        known = self.manifest["fingerprints"]
        changed = [name for name in fingerprints if known.get(name, fingerprints[name]) != fingerprints[name]]
        if changed:
            raise RunFolderError(
                f"{self.path} was started with another content of: {', '.join(changed)}. It changed since, so what "
                "the folder holds does not belong to it. Nothing was touched. Put the former content back, use a new "
                "--out, or --overwrite to start this one again."
            )
        if set(fingerprints) - set(known):
            known.update(fingerprints)
            self.save()

    def save(self) -> None:
        """Write the manifest so that a reader never sees half of it."""
        temporary = self.path / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")
        temporary.replace(self.path / MANIFEST)

    def sweep(self) -> None:
        """Remove what only an unfinished run needs, and what interruptions left."""
        self._remove(*_REMAINS)

    def _remove(self, *patterns: str) -> None:
        for item in [found for pattern in patterns for found in self.path.glob(pattern)]:
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


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be used as a run folder: {error.strerror or error}. Give --out a folder in a place that "
        "exists and that you may write to."
    )


def _same_or_raise(path: Path, existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = sorted(set(existing) | set(wanted))
    differing = [n for n in names if existing.get(n) != wanted.get(n)]
    if differing:
        told = "; ".join(f"{n} was {_told(existing.get(n))}, now {_told(wanted.get(n))}" for n in differing[:5])
        raise RunFolderError(
            f"{path} holds a run with another configuration ({told}). Nothing in it was touched. Use a new "
            "--out, or --overwrite to replace it."
        )


def _told(value: object) -> str:
    return "not given" if value is None else repr(value)
