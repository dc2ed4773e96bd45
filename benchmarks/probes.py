"""What probes alone say of the share of wrong labels and of each row, in minutes: calibration without fine-tuning.

Plants noise as benchmarks/calibration.py does, at all kinds and levels, and canaries beside it; lets probes of the
encoder learn from it; and holds the estimated share and the precision that their doubts promise against what was
planted. Who changes how shares are estimated looks here first, at many seeds, and runs benchmarks/calibration.py last:
with seeds that were not looked at here.

    python benchmarks/probes.py --data GLUE_FOLDER --seeds 11 12 13
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration import ROWS, TRUSTED, encoder, kinds_and_levels, plant
from calibration_tables import KINDS
from common import bundled_minilm, glue, table, write_section
from undertow.calibrate.cut import expected_cuts
from undertow.calibrate.odds import log_odds, with_mean
from undertow.calibrate.share import LEAST, Share, doubts, estimate_share
from undertow.data import Samples, stratified_subset
from undertow.models.loading import load_model
from undertow.models.sources import resolve_model
from undertow.pipeline.canaries import plan_canaries
from undertow.pipeline.probe import mean_states, probed
from undertow.pipeline.settings import AuditSettings


@dataclass(frozen=True)
class Found:
    """What came out of one kind, level and seed."""

    kind: str
    level: float
    share: Share
    true: float
    promised: float
    flagged: np.ndarray

    @property
    def achieved(self) -> float:
        """Share of the flagged rows that were planted."""
        return float(self.flagged.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/train.jsonl and validation.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'probes' is replaced")
    options = parser.parse_args()
    train, validation = glue(options.data, options.task)
    loaded, found = load_model(resolve_model(str(bundled_minilm())), train.classes), []
    for seed in options.seeds:
        rows, trusted = (stratified_subset(s, n, seed=seed) for s, n in ((train, options.rows), (validation, TRUSTED)))
        settings = AuditSettings(max_length=64 if rows.text_pairs is None else 128)
        parts = [mean_states(loaded.model, loaded.tokenizer, part, settings) for part in (rows, trusted)]
        states = np.concatenate(parts, axis=1)
        for kind, level in kinds_and_levels():
            found.append(read(states, rows, trusted, kind, level, seed))
            print(f"seed {seed}: {', '.join(row_of(found[-1:]))}", flush=True)
    text = summary(found, options)
    print("\n" + text)
    if options.write:
        write_section(options.write, "probes", text)


def read(states: np.ndarray, rows: Samples, trusted: Samples, kind: str, level: float, seed: int) -> Found:
    """Plant noise and canaries, and ask the probes."""
    noisy, bad = plant(rows, encoder(kind, level, seed=seed))
    planned, why = plan_canaries(noisy, AuditSettings(seed=seed), trained_here=True)
    assert planned is not None, why
    opinion = probed(states, planned, trusted.labels, seed=seed)
    own, of_canaries = planned.parted(opinion.rows)
    share = estimate_share(own, of_canaries, opinion.trusted, seed=seed)
    odds = log_odds(doubts(own, share))
    wrong = with_mean(odds, odds, max(share.value, LEAST))
    order = np.argsort(-wrong)
    flagged = order[: int(expected_cuts(*[wrong[order]] * 3).f1.argmax())]
    promised = float(wrong[flagged].mean()) if len(flagged) else np.nan
    bad = bad[planned.rest]
    return Found(kind, level, share, float(bad.mean()), promised, bad[flagged])


def errors(found: list[Found]) -> tuple[float, float]:
    """Mean error of the share, and mean distance of promised from achieved precision."""
    share, apart = np.mean([(abs(f.share.value - f.true), abs(f.promised - f.achieved)) for f in found], axis=0)
    return float(share), float(apart)


def row_of(found: list[Found]) -> tuple[str, ...]:
    """A line of the table: one kind and level, over its seeds."""
    share, gather, true = np.mean([(f.share.value, f.share.gathering, f.true) for f in found], axis=0)
    rows, promised, achieved = np.mean([(len(f.flagged), f.promised, f.achieved) for f in found], axis=0)
    error, apart = errors(found)
    held = sum(f.share.low <= f.true <= f.share.high for f in found)
    noisy = found[0].level > 0
    shares = (f"{share:.1%}", f"{gather:.0%}", f"{true:.1%}", f"{error:.1%}", f"{held} of {len(found)}", f"{rows:.0f}")
    precision = (f"{promised:.2f}", f"{achieved:.2f}", f"{apart:.3f}") if noisy else ("", "", "")
    return (found[0].kind if noisy else "clean", *shares, *precision)


def summary(found: list[Found], options: argparse.Namespace) -> str:
    """One line a kind and level, and the means of each kind."""
    head = ("noise", "share", "gather", "true", "error", "intervals", "rows", "promised", "achieved", "apart")
    lines = [row_of([f for f in found if (f.kind, f.level) == case]) for case in kinds_and_levels()]
    means = []
    for kind in KINDS:
        error, apart = errors([f for f in found if f.kind == kind and f.level])
        means.append(f"- {kind}: error of the share {error:.3f}, of the promised precision {apart:.3f}.\n")
    seeds = ", ".join(map(str, options.seeds))
    title = f"MiniLM-L6, {options.task}, {options.rows:,} rows, seeds {seeds}.\n\n"
    return f"{title}{table(head, lines)}\n{''.join(means)}"


if __name__ == "__main__":
    main()
