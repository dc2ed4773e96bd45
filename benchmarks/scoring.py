"""What aggregating a stored influence tensor anew takes: time and peak memory of ``undertow score``.

    python benchmarks/scoring.py [--folder runs/scoring] [--write docs/benchmarks.md]

Makes run folders whose tensors hold random influence, in the size of real ones, and times the command on them, each a
process of its own. Start-up is what the same imports take alone; the files are in the page cache.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from common import table, write_section
from undertow.influence.store import InfluenceWriter, influence_dataset
from undertow.models.keys import ModuleKey
from undertow.pipeline.run_folder import MANIFEST
from undertow.pipeline.settings import AuditSettings

SIZES = ((24, 436, 4500), (96, 500, 4500))
# Name of what is measured, options, and whether what earlier commands kept is forgotten first.
COMMANDS = (
    ("vote, middle layers (a third of the modules)", ("--layers", "middle", "--aggregate", "vote"), True),
    ("the same again", ("--layers", "middle", "--aggregate", "vote"), False),
    ("vote, middle and late layers", ("--layers", "middle,late", "--aggregate", "vote"), False),
    ("the same by queries of the same label", ("--layers", "middle,late", "--only", "same-label"), False),
    ("vote, all layers", ("--aggregate", "vote"), True),
    ("vote with five k, all layers", ("--aggregate", "vote", "--k", "0.1,0.2,0.3,0.4,0.5"), True),
    ("mean, standardised, rank, vote, vote-all, consensus", ("--aggregate", "all sums"), True),
    ("vote with 200 resamples of the queries", ("--aggregate", "vote", "--bootstrap", "200"), True),
    ("median", ("--aggregate", "median"), True),
    ("rra", ("--aggregate", "rra"), True),
    ("median with --memory 0.2", ("--aggregate", "median", "--memory", "0.2"), True),
)
SUMS = "mean,standardised,rank,vote,vote-all,consensus"


@dataclass(frozen=True)
class Cost:
    """Seconds and peak memory in GB of a process."""

    seconds: float
    memory: float


def make_run(folder: Path, modules: int, queries: int, samples: int) -> None:
    """A run folder of random influence with heavy tails, two classes, and a model that is right on nine in ten."""
    random = np.random.default_rng(0)
    keys = [
        ModuleKey(f"layer.{i // 2}.query.lora_{'AB'[i % 2]}", i // 2, "query", f"lora_{'AB'[i % 2]}", "attention", 4096)
        for i in range(modules)
    ]
    frame = influence_dataset(["cosine"], keys, np.arange(queries), np.arange(samples))
    frame.attrs["fingerprint"] = f"random {modules} {queries} {samples}"
    writer = InfluenceWriter(frame, folder / "influence.zarr")
    for m in range(modules):
        writer.write(0, m, slice(0, queries), random.standard_t(3, (queries, samples)).astype(np.float32))
        writer.complete(m)
    labels = random.integers(0, 2, samples)
    known = {
        "query_label": ("query", random.integers(0, 2, queries)),
        "query_correct": ("query", random.random(queries) < 0.9),
        "query_loss": ("query", random.exponential(0.3, queries)),
        "sample_label": ("sample", labels),
    }
    writer.finish(xr.Dataset(known, coords={"class": ["negative", "positive"]}))
    rows = {"row": np.arange(samples), "text": [f"text {i}" for i in range(samples)], "label": labels, "loss": 0.0}
    pd.DataFrame(rows).to_parquet(folder / "harm.parquet", index=False)
    asked = AuditSettings().model_dump(mode="json")
    manifest = {"configuration": asked, "stages": {"influence": {}, "outputs": {}}, "fingerprints": {}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def timed(command: list[str]) -> Cost:
    """Run a process to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return Cost(seconds, usage.ru_maxrss / 1e6)


def measured(run: Path, options: tuple[str, ...], forget: bool, repeats: int) -> Cost:
    """The median of some runs; a command that starts afresh does so each time."""
    told = [SUMS if o == "all sums" else o for o in options]
    found = []
    for _ in range(repeats):
        shutil.rmtree(run / "scores", ignore_errors=True)
        if forget:
            shutil.rmtree(run / "reductions", ignore_errors=True)
        found.append(timed([sys.executable, "-m", "undertow", "score", str(run), *told]))
        forget = forget or not (run / "reductions").exists()
    return sorted(found, key=lambda c: c.seconds)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/scoring"), help="where the tensors are made and kept")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'scoring' is replaced")
    options = parser.parse_args()
    imports = [
        sys.executable,
        "-c",
        "import undertow.cli.main, undertow.pipeline.score, undertow.report.text, pyarrow.parquet",
    ]
    start = sorted((timed(imports) for _ in range(options.repeats)), key=lambda c: c.seconds)[options.repeats // 2]
    rows = [["start-up alone", *[f"{start.seconds:.2f}", f"{start.memory:.2f}"] * len(SIZES)]]
    runs = []
    for size in SIZES:
        run = options.folder / "x".join(map(str, size))
        if not (run / MANIFEST).is_file():
            make_run(run, *size)
        timed([sys.executable, "-m", "undertow", "score", str(run), "--aggregate", "mean"])  # into the page cache
        runs.append(run)
    for name, told, forget in COMMANDS:
        costs = [measured(run, told, forget, options.repeats) for run in runs]
        rows.append([name, *(v for c in costs for v in (f"{c.seconds - start.seconds:.2f}", f"{c.memory:.2f}"))])
        print(rows[-1], flush=True)
    head = ["", *(v for size in SIZES for v in (f"{' × '.join(map(str, size))}, s beyond start-up", "peak GB"))]
    text = f"Medians of {options.repeats} runs on {os.cpu_count()} cores; modules × queries × samples.\n\n" + table(
        head, rows
    )
    print(text)
    if options.write:
        write_section(options.write, "scoring", text)


if __name__ == "__main__":
    main()
