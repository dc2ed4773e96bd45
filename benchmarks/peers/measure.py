"""One peer, once, in a process of its own: seconds, memory, and the influence it found.

Called by run.py with a job in JSON; writes FOLDER/found.json and FOLDER/influence.npz.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import sys
import tempfile
import time
import traceback
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import psutil
import torch
from work import Outcome, Work, plain_pass, prepare

from undertow.pipeline.stages import measured


def main() -> None:
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    try:
        with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):  # some leave files where they run
            found, outcome = _measure(job)
        np.savez(folder / "influence.npz", *outcome.influence.values())
    except Exception as error:
        traceback.print_exc()
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        found = {"error": f"{type(error).__name__}: {said.strip()}"}
    (folder / "found.json").write_text(json.dumps(found))


def _measure(job: dict[str, Any]) -> tuple[dict[str, Any], Outcome]:
    run = getattr(importlib.import_module(job["file"]), job["function"])
    work = prepare(job["model"], Path(job["data"]), job["samples"], job["queries"], job["single"])
    if job["check"]:
        outcome = run(work.without_head())
        return _described(outcome), outcome
    # Peers change the model they are given; the plain passes have one of their own.
    plain = replace(work, model=deepcopy(work.model))
    plain_pass(plain, work.queries)  # warm up
    _give_back_memory()
    before = _seconds(plain)
    _give_back_memory()
    resident = psutil.Process().memory_info().rss / 1e6
    with measured(interval=0.01) as cost:
        outcome = run(work)
    after = _seconds(plain)
    return {
        **_described(outcome),
        "seconds": cost.seconds if outcome.seconds is None else outcome.seconds,
        "plain": (before + after) / 2,
        "memory_mb": cost.peak_memory_mb - resident,
        "model": work.name,
        "threads": torch.get_num_threads(),
    }, outcome


def _described(outcome: Outcome) -> dict[str, Any]:
    rows = None if outcome.rows is None else [r.tolist() for r in outcome.rows]
    return {"keys": list(outcome.influence), "modules": list(outcome.modules), "rows": rows}


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    plain_pass(work)
    return time.perf_counter() - start


def _give_back_memory() -> None:
    """Freed memory that the allocator holds back would hide what a peer needs."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


if __name__ == "__main__":
    main()
