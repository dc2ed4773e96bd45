"""What calibration by canaries promises, held against planted noise that it does not know.

Plants uniform, class-conditional and instance-dependent noise at several levels in a GLUE task, audits it with
canaries, and compares: the NDR@30 of the calibrated harm with the best of all choices in hindsight, with fixed
choices, loss and confident learning; the estimated share with the true one; promised with achieved precision; rows
flagged on clean data; and accuracy after dropping or relabelling the flagged rows, between noisy and oracle. The best
of hundreds of choices is best by luck too; so it is also chosen by one half of the planted rows and compared by the
other. Every case leaves one JSON file under --runs and is not computed again.

    python benchmarks/calibration.py --data GLUE_FOLDER --small     # about two and a half hours on two cores
    python benchmarks/calibration.py --data GLUE_FOLDER --small --again 18 19 20    # the encoder with further seeds
    python benchmarks/calibration.py --data GLUE_FOLDER             # all tasks, kinds, levels and three seeds

The best of hundreds in one seed is lucky even with 200 planted rows. So --again takes the choice that is best on
average over several seeds, and puts the rows of all of them together to compare promised with achieved precision.

The small setting takes about 100 minutes as two processes of one thread (OMP_NUM_THREADS=1), one with --only minilm and
one with --only smollm2; the command without --only then makes the tables.
"""

import argparse
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibration_tables import KINDS, cell_tables, tables
from common import bundled_minilm, bundled_smollm2, glue, write_section
from undertow.calibrate.choices import average, rank_choices
from undertow.calibrate.learned import learned_harm
from undertow.calibrate.mixture import even_doubts
from undertow.calibrate.standing import standings
from undertow.data import Samples, plant_noise, split_validation, stratified_subset
from undertow.influence.store import open_influence
from undertow.metrics.noise import noise_detection
from undertow.pipeline.audit import audit
from undertow.pipeline.choices import LOSS, PROBE, try_choices, with_probe
from undertow.pipeline.model import describe_model, load_candidate
from undertow.pipeline.outcome import Audit
from undertow.pipeline.settings import AuditSettings
from undertow.pipeline.steps import fine_tune_step, predict_step
from undertow.progress import Silent

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.4)
CUTS = (0.02, 0.05, 0.1, 0.2, 0.3)
# Share of class-conditional flips that fall on the first class.
ONE_CLASS = 0.8
TEST = 1000
TRUSTED = 1000
# Rows of a small case of the encoder: as many, and more where fewer of them than these would be planted. By the best of
# hundreds of choices, which is lucky too, a few rows of 100 mean little.
ROWS, PLANTED = 2000, 200


@dataclass(frozen=True)
class Case:
    """One audit: what is planted where; and whether trusted rows are like the training rows, or the task's own."""

    model: str
    task: str
    kind: str
    level: float
    rows: int
    epochs: int
    learning_rate: float
    seed: int
    retrain: bool
    like: bool = False

    @property
    def name(self) -> str:
        """Name of its file."""
        own = f"{self.model}-{self.task}-{self.kind}-{self.level:g}-{self.rows}-{self.epochs}-{self.seed}"
        return own + ("-like" if self.like else "")


def plant(samples: Samples, case: Case) -> tuple[Samples, np.ndarray]:
    """Noisy samples, and which of them are."""
    if case.level == 0:
        return samples, np.zeros(len(samples), dtype=bool)
    if case.kind == "uniform":
        planted = plant_noise(samples, case.level, seed=case.seed)
        return planted.samples, planted.planted
    random, n = np.random.default_rng(case.seed), len(samples)
    if case.kind == "class":
        first = samples.labels == 0
        weight = np.where(first, ONE_CLASS / first.sum(), (1 - ONE_CLASS) / (~first).sum())
    else:
        weight = difficulty(samples)
    # Exponential clocks: a draw without replacement in which no weight can be used up.
    chosen = np.argsort(random.exponential(size=n) / weight)[: round(case.level * n)]
    bad = np.zeros(n, dtype=bool)
    bad[chosen] = True
    labels, classes = samples.labels.copy(), len(samples.classes)
    labels[bad] = (labels[bad] + random.integers(1, classes, size=int(bad.sum()))) % classes
    return samples.with_labels(labels), bad


def difficulty(samples: Samples) -> np.ndarray:
    """How probable a held-out bag-of-words classifier finds another label than the true one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline

    pairs = samples.text_pairs or [""] * len(samples)
    texts = [f"{a} {b}" for a, b in zip(samples.texts, pairs, strict=True)]
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    p = cross_val_predict(model, texts, samples.labels, method="predict_proba", cv=5)
    wrong = 1 - p[np.arange(len(samples)), samples.labels]
    return np.maximum(wrong, 0.01) ** 2


def run_case(case: Case, data: Path, runs: Path) -> dict[str, Any]:
    """Audit one case and measure it; the result is read back where it is there."""
    file = runs / f"{case.name}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    train, validation = glue(data, case.task)
    both = stratified_subset(train, case.rows + TEST + (TRUSTED if case.like else 0), seed=case.seed)
    order = np.random.default_rng(case.seed).permutation(len(both))
    clean, test, like = (both.select(np.sort(part)) for part in np.split(order, [case.rows, case.rows + TEST]))
    noisy, bad = plant(clean, case)
    settings = AuditSettings(
        estimators=("cosine", "datainf", "tracin"),
        baselines=("confident-learning",),
        epochs=case.epochs,
        learning_rate=case.learning_rate,
        seed=case.seed,
        finetune="always",
        max_length=64 if case.task == "sst2" else 128,
        cancellation="none",
    )
    model = str({"minilm": bundled_minilm, "smollm2": bundled_smollm2}[case.model]())
    folder = runs / case.name
    trusted = like if case.like else stratified_subset(validation, TRUSTED, seed=case.seed)
    result = audit(model, noisy, trusted, out=folder, settings=settings, progress=False)
    found = {**asdict(case), **measures(result, bad)}
    if bad.any():
        found["ways"] = ways(open_influence(folder / "influence.zarr"), result.harm["probe"].to_numpy(), bad, settings)
    if case.retrain:
        selection = split_validation(trusted, query_share=settings.query_share, seed=case.seed).selection
        found["accuracy"] = accuracies(model, noisy, selection, test, bad, result, settings, folder)
    file.write_text(json.dumps(found, indent=1))
    shutil.rmtree(folder)
    return found


def measures(result: Audit, bad: np.ndarray) -> dict[str, Any]:
    """What was promised, and what is true."""
    told, harm = result.results.calibration, result.harm
    assert told is not None
    stages = {name: s["seconds"] for name, s in result.manifest["stages"].items()}
    flagged, wrong = harm["flagged"].to_numpy(bool), harm["wrong"].to_numpy()
    removed = harm["removed"].to_numpy(bool)
    order = np.argsort(harm["rank"].to_numpy())
    found: dict[str, Any] = {
        "true share": float(bad.mean()),
        "share": [told.share, told.share_low, told.share_high],
        "gathering": told.gathering,
        "memory": told.memory,
        "reader": told.reader,
        "separation": told.separation,
        "power": told.power,
        "weights": told.weights,
        "way": told.way,
        "shift": told.canary_shift,
        "flagged": float(flagged.mean()),
        "refused": told.refused,
        "promised": told.precision if flagged.any() else None,
        "achieved": float(bad[flagged].mean()) if flagged.any() else None,
        "removed": float(removed.mean()),
        "removed promised": told.removed_precision if removed.any() else None,
        "removed achieved": float(bad[removed].mean()) if removed.any() else None,
        "recall": [told.recall, float(bad[flagged].sum() / max(bad.sum(), 1))],
        "cuts": [[c, *(float(v[order[: round(c * len(bad))]].mean()) for v in (wrong, bad))] for c in CUTS],
        "reliability": reliability(wrong, bad),
        "seconds": stages,
        "extra": stages["calibration"] / sum(stages.values()),
        "entries": {e.name: e.auroc for e in told.entries},
    }
    if bad.any():
        others = try_choices(result.influence, AuditSettings(estimators=("cosine", "datainf", "tracin")))
        tried = with_probe(others, harm["probe"].to_numpy())
        ndrs = [noise_detection(h, bad).ndr(0.3) for h in tried.harms]
        vote = tried.find(estimator="datainf", layers="all", aggregate="vote", k=0.3, only="all")
        rank = tried.find(estimator="cosine", layers="all", aggregate="rank", only="all")
        names = {"vote": vote, "rank": rank, "loss": tried.find(estimator=LOSS)}
        names["confident learning"] = tried.find(estimator="confident-learning")
        best = int(np.argmax(ndrs))
        found["half regret"] = half_regret(tried.harms, harm["harm"].to_numpy(), bad)
        found["choices"] = {choice.name: ndr for choice, ndr in zip(tried.choices, ndrs, strict=True)}
        assert len(found["choices"]) == len(ndrs), "two choices of one name"
        found["ndr"] = {
            "calibrated": noise_detection(harm["harm"].to_numpy(), bad).ndr(0.3),
            "best": ndrs[best],
            "best name": tried.choices[best].name,
            "best without": max(ndrs[:-1]),
            "probe": ndrs[-1],
            **{name: ndrs[i] for name, i in names.items() if i is not None},
        }
    return found


def ways(everything: xr.Dataset, probe: np.ndarray, bad: np.ndarray, settings: AuditSettings) -> dict[str, float]:
    """NDR@30 of each way to one harm, over the rows that are not canaries; ``probe`` is of each row's own label."""
    n = len(bad)
    if everything["sample_probability"].shape[1] != 2:
        raise ValueError(
            "what a probe says of the label of a canary follows from that of the row with two classes only"
        )
    canaries, rows = np.arange(n, everything.sizes["sample"]), everything["sample"].values
    place = {int(row): i for i, row in enumerate(rows[:n])}
    twins = np.array([place[-1 - int(row)] for row in rows[n:]])
    rest = np.setdiff1d(np.arange(n), twins)
    tried = with_probe(try_choices(everything, settings), np.concatenate([probe, 1 - probe[twins]]))
    ranked = standings(tried.harms, rest, everything["sample_label"].values)
    ranking = rank_choices(ranked[:, canaries], [choice.cost for choice in tried.choices], seed=settings.seed)
    apart = np.array([choice.kind == PROBE for choice in tried.choices])
    harms = {
        "average": average(ranked, ranking.order),
        "single": ranked[ranking.chosen],
        "learned": learned_harm(
            ranked, rest, canaries, twins, apart, even_doubts(probe[rest], 2), seed=settings.seed
        ).harm,
    }
    return {name: noise_detection(harm[rest], bad[rest]).ndr(0.3) for name, harm in harms.items()}


def half_regret(harms: np.ndarray, calibrated: np.ndarray, bad: np.ndarray, times: int = 50) -> float:
    """NDR@30 of the choice that finds most of one half of the planted rows, less the calibrated one, by the other."""
    rows, flagged = np.flatnonzero(bad), round(0.3 * len(bad))
    top = np.zeros((len(harms) + 1, len(bad)), dtype=bool)
    for line, harm in zip(top, [*harms, calibrated], strict=True):
        line[np.argsort(-harm, kind="stable")[:flagged]] = True
    hits, random = top[:, rows], np.random.default_rng(0)
    regrets = []
    for _ in range(times):
        order = random.permutation(len(rows))
        one, other = order[::2], order[1::2]
        chosen = int(np.argmax(hits[:-1, one].mean(axis=1)))
        regrets.append(float(hits[chosen, other].mean() - hits[-1, other].mean()))
    return float(np.mean(regrets))


def reliability(wrong: np.ndarray, bad: np.ndarray, bins: int = 10) -> list[list[float]]:
    """Rows, mean probability and share of wrong labels, for equal steps of the probability."""
    place = np.minimum((wrong * bins).astype(int), bins - 1)
    held = [place == b for b in range(bins) if (place == b).any()]
    return [[float(m.sum()), float(wrong[m].mean()), float(bad[m].mean())] for m in held]


def accuracies(
    model: str,
    noisy: Samples,
    selection: Samples,
    test: Samples,
    bad: np.ndarray,
    result: Audit,
    settings: AuditSettings,
    folder: Path,
) -> dict[str, float]:
    """Test accuracy after training on noisy, dropped, relabelled and oracle rows, from the same start.

    Dropped and relabelled is what the audit removes; "all flagged" drops whatever is flagged.
    """
    flagged, removed = (result.harm[name].to_numpy(bool) for name in ("flagged", "removed"))
    place = {name: i for i, name in enumerate(noisy.classes)}
    other = result.harm["suggested_label"].map(place).fillna(0).to_numpy(dtype=np.int64)
    arms = {
        "noisy": noisy,
        "dropped": noisy.select(np.flatnonzero(~removed)),
        "relabelled": noisy.with_labels(np.where(removed, other, noisy.labels)),
        "all flagged dropped": noisy.select(np.flatnonzero(~flagged)),
        "oracle": noisy.select(np.flatnonzero(~bad)),
    }
    start = load_candidate(describe_model(model, settings, Silent()), None, noisy.classes, settings).start
    found = {}
    for name, rows in arms.items():
        tuned = fine_tune_step(start, rows, selection, settings, folder=folder / "checkpoints" / name)
        predicted = predict_step(tuned.model, start.tokenizer, test, settings)
        found[name] = float((predicted == test.labels).mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/train.jsonl and validation.jsonl")
    parser.add_argument(
        "--small",
        action="store_true",
        help="one seed: the encoder with 2,000 rows or more, and the language model with 900 at some levels",
    )
    parser.add_argument(
        "--again",
        nargs="+",
        type=int,
        default=[],
        metavar="SEED",
        help="with --small: cases of the encoder with these seeds",
    )
    parser.add_argument("--only", default="", help="run just the cases whose names hold this text")
    parser.add_argument("--model", default="minilm", choices=("minilm", "smollm2"))
    parser.add_argument("--task", nargs="+", default=["sst2", "qnli", "cola"])
    parser.add_argument("--rows", type=int, default=4500)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/calibration"))
    parser.add_argument(
        "--write", type=Path, help="Markdown file whose section 'calibration', or 'calibration-again', is replaced"
    )
    options = parser.parse_args()
    if options.again and not options.small:
        parser.error("--again needs --small; without it, --seeds says how many seeds all cases are run with.")
    options.runs.mkdir(parents=True, exist_ok=True)
    found = []
    for case in (case for case in cases(options) if options.only in case.name):
        found.append(run_case(case, options.data, options.runs))
        print(f"{case.name}: {line(found[-1])}", flush=True)
    if not found:
        parser.error(f"no case has {options.only!r} in its name. Names are like {cases(options)[0].name}.")
    text = cell_tables(found) if options.again else tables(found)
    print("\n" + text)
    if options.write:
        write_section(options.write, "calibration-again" if options.again else "calibration", text)


def cases(options: argparse.Namespace) -> list[Case]:
    """All cases that are asked for."""
    if options.again:
        return again_cases(options.again)
    if options.small:
        return small_cases()
    return [
        Case(options.model, t, kind, level, options.rows, options.epochs, options.learning_rate, s, level == 0.2)
        for t, s, (kind, level) in itertools.product(options.task, range(options.seeds), kinds_and_levels())
    ]


def kinds_and_levels() -> list[tuple[str, float]]:
    """All that is planted; clean data has one kind."""
    return [(kind, level) for level, kind in itertools.product(LEVELS, KINDS) if level > 0 or kind == KINDS[0]]


def small_cases() -> list[Case]:
    """What is run on two cores.

    The encoder with all kinds and levels; the language model with some; two tasks that the encoder hardly learns from
    so few rows; and three cases again with trusted rows that are like the training rows (the validation rows of SST-2
    are whole sentences, its training rows phrases).
    """

    def language(kind: str, level: float, *, like: bool = False) -> Case:
        return Case("smollm2", "sst2", kind, level, 900, 4, 5e-4, 0, False, like)

    every = [encoder(kind, level) for kind, level in kinds_and_levels()]
    some = (("uniform", 0.0), ("uniform", 0.05), ("uniform", 0.2), ("uniform", 0.4), ("class", 0.2), ("instance", 0.2))
    hard = [encoder("uniform", level, task) for task in ("qnli", "cola") for level in (0.0, 0.2)]
    like = [encoder("uniform", 0.2, like=True), encoder("class", 0.2, like=True), language("uniform", 0.2, like=True)]
    return every + like + hard + [language(*one) for one in some]


def again_cases(seeds: Sequence[int]) -> list[Case]:
    """The encoder with further seeds: all kinds and levels of SST-2, and QNLI, from which it hardly learns."""
    return [
        *(encoder(kind, level, seed=seed) for (kind, level), seed in itertools.product(kinds_and_levels(), seeds)),
        *(encoder("uniform", 0.2, "qnli", seed=seed) for seed in seeds),
    ]


def encoder(kind: str, level: float, task: str = "sst2", *, seed: int = 0, like: bool = False) -> Case:
    """A small case of the encoder; with seed 0 and 20% of SST-2 it trains on what is left, too."""
    rows = ROWS if level == 0 else max(ROWS, round(PLANTED / level))
    retrain = level == 0.2 and task == "sst2" and not like and seed == 0
    return Case("minilm", task, kind, level, rows, 4, 1e-3, seed, retrain, like)


def line(found: dict[str, Any]) -> str:
    """A case in one line."""
    ndr = found.get("ndr", {})
    value, low, high = found["share"]
    told = (
        f"share {value:.3f} ({low:.3f} to {high:.3f}), true {found['true share']:.3f}; flagged {found['flagged']:.3f}"
    )
    if found["promised"] is not None:
        told += f", promised {found['promised']:.2f}, achieved {found['achieved']:.2f}"
    if ndr:
        told += f"; NDR@30 {ndr['calibrated']:.3f}, best {ndr['best']:.3f} ({ndr['best name']})"
    return told


if __name__ == "__main__":
    main()
