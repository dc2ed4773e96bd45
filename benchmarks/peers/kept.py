"""Measurements, each in a process and a folder of its own; what a folder holds of the same work is not made again."""

import argparse
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import Peer

# Rows on which the LoRA modules are compared alone.
CHECK_SAMPLES, CHECK_QUERIES = 64, 16


def _job(peer: Peer, options: argparse.Namespace, check: bool) -> dict[str, Any]:
    """What measure.py is asked, and what a kept measurement has to agree with."""
    job = {name: getattr(options, name) for name in ("model", "samples", "queries", "single")}
    if check:
        job |= {"samples": min(CHECK_SAMPLES, options.samples), "queries": min(CHECK_QUERIES, options.queries)}
    job |= {"file": peer.file, "function": peer.function, "check": check, "data": str(options.data.resolve())}
    return job | {"versions": [version(name) for name in (peer.package, "torch", "transformers")]}


def _folder(peer: Peer, options: argparse.Namespace, repeat: int, check: bool = False) -> Path:
    what = "check" if check else str(repeat + 1)
    return options.keep / f"{options.model} {options.samples}x{options.queries} {peer.name} {what}".replace(" ", "-")


def is_kept(peer: Peer, options: argparse.Namespace, repeat: int, *, check: bool = False) -> bool:
    """Whether this measurement was made before, of the same work."""
    folder = _folder(peer, options, repeat, check)
    if not (folder / "found.json").is_file():
        return False
    return json.loads((folder / "job.json").read_text()) == _job(peer, options, check)


def measured(
    peer: Peer, options: argparse.Namespace, repeat: int, *, check: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What measure.py found (or ``error``), and the influence by module."""
    folder = _folder(peer, options, repeat, check)
    if not is_kept(peer, options, repeat, check=check):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = _job(peer, options, check)
        (folder / "job.json").write_text(json.dumps(job))
        trouble = _in_a_process({**job, "folder": str(folder.resolve())}, options.limit)
        if not (folder / "found.json").is_file():
            (folder / "found.json").write_text(json.dumps({"error": trouble}))
    found = json.loads((folder / "found.json").read_text())
    if "error" in found:
        return found, {}
    with np.load(folder / "influence.npz") as arrays:
        return found, {key: arrays[f"arr_{i}"] for i, key in enumerate(found["keys"])}


def _in_a_process(job: dict[str, Any], limit: float) -> str:
    """Run measure.py, which leaves its findings in the job's folder; why it did not, if it did not."""
    command = [sys.executable, str(Path(__file__).with_name("measure.py")), json.dumps(job)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit * 60, check=False)
    except subprocess.TimeoutExpired:
        return f"more than {limit:g} minutes"
    return f"ended with code {ended.returncode}: {(ended.stderr.strip().splitlines() or ['nothing said'])[-1]}"
