"""What control rows promise, held against really noisy labels and planted ones that an audit does not know.

Audits really noisy sets (folder real/NAME under --data) and SST-2 with planted noise, and compares promised with
achieved precision at several false discovery rates, the lower bound of the share with the true share, the harm with the
best of all choices in hindsight, and test accuracy after dropping, relabelling or down-weighting. Rivals: cleanlab's
find_label_issues and count, quapy's EMQ (pip install --no-deps quapy abstention), AUM, kNN, the loss, the probe alone.
Every case leaves one JSON file under --runs and is not computed again.

    python benchmarks/controls.py --data DATA                  # all cases, about two and a half hours on two cores
    python benchmarks/controls.py --data DATA --only real      # cases whose names hold this text
    python benchmarks/controls.py --data DATA --tables --write docs/results.md
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from choices import all_harms
from common import bundled_minilm, bundled_smollm2, write_section
from controls_tables import tables
from noise import Noisy, planted, real
from undertow.controls.conformal import discoveries, null_share
from undertow.metrics.noise import noise_detection
from undertow.pipeline.actions import likelier_labels
from undertow.pipeline.audit import audit
from undertow.pipeline.controls.planned import PROBES
from undertow.pipeline.controls.probes import Probed
from undertow.pipeline.model import describe_model, load_candidate
from undertow.pipeline.outcome import Audit
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import fine_tune_step, predict_step
from undertow.progress import Silent

RATES = (0.1, 0.2, 0.35, 0.5)
REAL = ("mturk-sentiment", "agnews-lf", "trec-lf", "yelp-lf")
PLANTED = (
    ("uniform", 0.0),
    *((kind, level) for kind in ("uniform", "one-sided", "hard") for level in (0.05, 0.2, 0.4)),
)
# Sets whose models are trained again; reviews of the last one are long.
RETRAINED = REAL[:3]
BASELINES = ("knn", "aum")


@dataclass(frozen=True)
class Case:
    """One audit."""

    data: str
    kind: str
    level: float
    seed: int
    rows: int = 2000
    trusted: int = 300
    model: str = "minilm"
    retrain: bool = False
    again: bool = False

    @property
    def name(self) -> str:
        """Name of its file."""
        noise = "real" if self.kind == "real" else f"{self.kind}-{self.level:g}"
        again = "-again" if self.again else ""
        return f"{self.model}-{noise}-{self.data}-{self.seed}-{self.rows}-{self.trusted}{again}"

    def load(self, folder: Path) -> Noisy:
        """Its data."""
        if self.kind == "real":
            return real(folder / "real" / self.data, self.seed, self.rows, self.trusted, again=self.again)
        return planted(folder / "glue", self.data, self.kind, self.level, self.seed, self.rows, self.trusted)


def cases() -> Iterator[Case]:
    """All cases."""
    for name in REAL:
        for seed in (2, 3):
            yield Case(name, "real", 0, seed, retrain=seed == 2 and name in RETRAINED)
    for name in REAL:
        for trusted in (150, 600):
            yield Case(name, "real", 0, 2, trusted=trusted)
    for name in REAL:
        yield Case(name, "real", 0, 2, again=True)
    for rows in (1000, 4000):
        yield Case("mturk-sentiment", "real", 0, 2, rows)
    for kind, level in PLANTED:
        yield Case("sst2", kind, level, 2, retrain=level == 0.2)
    for kind, level in (("uniform", 0.2), ("hard", 0.2)):
        yield Case("sst2", kind, level, 2, 900, model="smollm2")


def run_case(case: Case, data: Path, runs: Path) -> dict[str, Any]:
    """Audit one case and measure it; the result is read back where it is there."""
    file = runs / f"{case.name}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    noisy, folder = case.load(data), runs / case.name
    settings = AuditSettings(
        estimators=("cosine", "datainf", "tracin"),
        baselines=BASELINES,
        epochs=4 if case.model == "smollm2" else 5,
        learning_rate=1e-3,
        seed=case.seed,
        finetune="always",
        max_length=64,
        cancellation="none",
    )
    model = str({"minilm": bundled_minilm, "smollm2": bundled_smollm2}[case.model]())
    result = audit(model, noisy.train, noisy.trusted, out=folder, settings=settings, progress=False)
    noisy = noisy.select(result.harm["row"].to_numpy())  # rows that were labelled again are not audited
    found = {**asdict(case), **measures(result, noisy, Probed.load(folder / PROBES))}
    if case.retrain:
        found["accuracy"] = accuracies(model, noisy, result, settings, folder)
    file.write_text(json.dumps(found, indent=1))
    shutil.rmtree(folder)
    return found


def measures(result: Audit, noisy: Noisy, probed: Probed) -> dict[str, Any]:
    """What was promised, and what is true."""
    said, harm, wrong = result.results.controls, result.harm, noisy.wrong
    assert said is not None
    stages = {name: s["seconds"] for name, s in result.manifest["stages"].items()}
    flagged, removed = (harm[name].to_numpy(bool) for name in ("flagged", "removed"))
    doubt = -np.log(harm["probe"].to_numpy())
    found: dict[str, Any] = {
        "true share": float(wrong.mean()),
        "said": said.model_dump(mode="json", exclude={"judged", "transitions"}),
        "flagged": int(flagged.sum()),
        "removed": int(removed.sum()),
        "flagged precision": float(wrong[flagged].mean()) if flagged.any() else None,
        "cuts": cut_facts(harm, result.folder, wrong),
        "suggestions": suggestion_facts(harm, noisy),
        "rivals": rivals(probed, noisy),
        "seconds": stages,
    }
    if wrong.any():
        singles = all_harms(result.influence)
        singles |= {name: harm[f"baseline_{name}"].to_numpy() for name in BASELINES}
        singles |= {"loss": harm["loss"].to_numpy(), "probe": doubt}
        ndr = {name: noise_detection(values, wrong).ndr(0.3) for name, values in singles.items()}
        best = max(ndr, key=lambda name: ndr[name])
        paper = {"cosine, all, rank": "cosine, all, rank", "datainf, all, vote": "datainf, all, vote 30%"}
        found["ndr"] = {
            "harm": noise_detection(harm["harm"].to_numpy(), wrong).ndr(0.3),
            "best": ndr[best],
            "best name": best,
            **{name: ndr[name] for name in (*BASELINES, "loss", "probe")},
            **{name: ndr[key] for name, key in paper.items() if key in ndr},
        }
    return found


def cut_facts(harm: pd.DataFrame, folder: Path | None, wrong: np.ndarray) -> dict[str, Any]:
    """Rows, promised and sure precision, and achieved precision at each false discovery rate."""
    assert folder is not None
    cuts, p = pd.read_parquet(folder / "cuts.parquet"), harm["p_value"].to_numpy()
    order, good, found = np.argsort(harm["rank"].to_numpy()), null_share(p), {}
    for rate in RATES:
        rows = discoveries(p, rate, good)
        line = cuts.iloc[rows]
        promised = [float(line["precision"]), float(line["sure_precision"])] if rows else None
        found[f"{rate:g}"] = {
            "rows": rows,
            "promised": promised,
            "achieved": float(wrong[order[:rows]].mean()) if rows else None,
        }
    return found


def suggestion_facts(harm: pd.DataFrame, noisy: Noisy) -> dict[str, Any]:
    """Mean probability of the suggested labels that are likelier right than the given ones, and how many are right."""
    probability, used = harm["suggested_probability"].to_numpy(), likelier_labels(harm)
    place = {name: i for i, name in enumerate(noisy.train.classes)}
    right = harm["suggested_label"].map(place).to_numpy(dtype=float) == noisy.gold
    if not used.any():
        return {"rows": 0}
    return {"rows": int(used.sum()), "said": float(probability[used].mean()), "right": float(right[used].mean())}


def rivals(probed: Probed, noisy: Noisy) -> dict[str, Any]:
    """What cleanlab and EMQ say of the same out-of-sample probabilities."""
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues

    labels, p, wrong = noisy.train.labels, probed.rows, noisy.wrong
    found: dict[str, Any] = {}
    issues = np.asarray(find_label_issues(labels, p))
    found["cleanlab"] = {
        "rows": int(issues.sum()),
        "precision": float(wrong[issues].mean()) if issues.any() else None,
        "share": float(num_label_issues(labels, p) / len(labels)),
    }
    try:
        from quapy.method.aggregative import EMQ
    except ImportError:
        return found
    share = 0.0
    for given in np.unique(labels):
        mine = labels == given
        prevalence, _ = EMQ.EM(probed.prior, p[mine])
        share += mine.mean() * (1 - prevalence[given])
    found["EMQ"] = {"share": float(share)}
    return found


def accuracies(model: str, noisy: Noisy, result: Audit, settings: AuditSettings, folder: Path) -> dict[str, Any]:
    """Test accuracy after training on noisy, dropped, relabelled and gold labels, from the same start, and hits."""
    harm, train = result.harm, noisy.train
    removed = harm["removed"].to_numpy(bool)
    place = {name: i for i, name in enumerate(train.classes)}
    suggested = harm["suggested_label"].map(place).fillna(0).to_numpy(dtype=np.int64)
    arms = {
        "noisy": train,
        "dropped": train.select(np.flatnonzero(~removed)),
        "relabelled": train.with_labels(np.where(likelier_labels(harm), suggested, train.labels)),
        "gold": train.with_labels(noisy.gold),
    }
    start = load_candidate(describe_model(model, settings, Silent()), None, train.classes, settings).start
    found: dict[str, Any] = {}
    selection = noisy.trusted
    for name, rows in arms.items():
        tuned = fine_tune_step(start, rows, selection, settings, folder=folder / "checkpoints" / name)
        predicted = predict_step(tuned.model, start.tokenizer, noisy.test, settings)
        found[name] = (predicted == noisy.test.labels).astype(int).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with real/NAME/*.jsonl and glue/TASK/*.jsonl")
    parser.add_argument("--runs", type=Path, default=Path("runs/controls"), help="where each case leaves its result")
    parser.add_argument("--only", default="", help="run just the cases whose names hold this text")
    parser.add_argument("--tables", action="store_true", help="run nothing, make the tables of what is there")
    parser.add_argument("--write", type=Path, help="Markdown file whose section 'controls' is replaced")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    wanted = [case for case in cases() if options.only in case.name]
    found = []
    for case in wanted:
        if options.tables and not (options.runs / f"{case.name}.json").is_file():
            continue
        found.append(run_case(case, options.data, options.runs))
        print(f"{case.name}: {line(found[-1])}", flush=True)
    text = tables(found)
    print("\n" + text)
    if options.write:
        write_section(options.write, "controls", text)


def line(found: dict[str, Any]) -> str:
    """A case in one line."""
    said, ndr = found["said"], found.get("ndr", {})
    told = f"share {found['true share']:.3f}, at least {said['share_least']:.3f}; flagged {found['flagged']}"
    if found["flagged"]:
        told += f", promised {said['precision']:.2f}, achieved {found['flagged precision']:.2f}"
    return told + (f"; NDR@30 {ndr['harm']:.3f}, best {ndr['best']:.3f} ({ndr['best name']})" if ndr else "")


if __name__ == "__main__":
    main()
