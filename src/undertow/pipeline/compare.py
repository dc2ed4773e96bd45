"""Every estimator, layer group and aggregation of a run side by side, beside the baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from undertow.aggregation.names import AGGREGATIONS, check_aggregation, check_weighing
from undertow.baselines.simple import loss_harm
from undertow.errors import ConfigError
from undertow.influence.store import deciding_modules, standard_groups
from undertow.metrics.agreement import agreement
from undertow.metrics.intervals import bootstrap
from undertow.metrics.noise import noise_detection
from undertow.models.groups import select_modules
from undertow.pipeline.scorer import Scorer, Scoring
from undertow.pipeline.written import planted_rows, read_harm, write_table
from undertow.progress import Reporter, Silent

TABLE = "compare.parquet"
# Order statistics hold all values at once: they are compared where they are asked for.
DEFAULT_AGGREGATIONS = tuple(name for name, known in AGGREGATIONS.items() if known.form != "order")
LOSS = "loss"


@dataclass(frozen=True)
class CompareOptions:
    """What is to be compared.

    Attributes:
        estimators: of the run; all of them where none is named.
        layers: layer expressions, parts of one joined by a plus; the standard groups where none is named.
        aggregate: names of aggregations.
        k: shares, or numbers above 1, that vote looks at; one choice for each.
        only: which queries count.
        weigh: what each query weighs.
        trim: share that trimmed leaves out on each side.
        memory: bytes to stay within; half of what is free unless given.
        resamples: of the bootstrap interval of AUC-NDR; 0 for none.
    """

    estimators: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    aggregate: tuple[str, ...] = DEFAULT_AGGREGATIONS
    k: tuple[int | float, ...] = (0.3,)
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    trim: int | float = 0.1
    memory: int | None = None
    resamples: int = 200


@dataclass(frozen=True)
class Comparison:
    """What `compare_run` found.

    Attributes:
        table: one row a choice, best first. Columns: kind (influence or baseline), estimator (or the baseline's
            name), layers, aggregate, k (NaN but for vote), modules; ndr10, ndr20, ndr30, auc, auc_low and auc_high
            where noise was planted, else NaN; agreement (mean Spearman with the other choices of kind influence)
            and agreement_loss (Spearman with the loss).
        harms: harm of each row of the table, in its order, [rows x n].
        planted: which samples were planted; None where no noise was.
        notes: what was left out, and why.
    """

    table: pd.DataFrame
    harms: Float[np.ndarray, "choice sample"]
    planted: Bool[np.ndarray, " sample"] | None
    notes: tuple[str, ...]


def compare_run(
    run: str | Path, options: CompareOptions | None = None, *, reporter: Reporter | None = None
) -> Comparison:
    """Measure every choice of estimator, layers and aggregation, and write ``compare.parquet`` to the run.

    All choices are served from one pass over the tensor. Where noise was planted they are sorted by AUC-NDR; where
    it was not, by how well they agree with the others.

    Raises:
        RunFolderError: when the folder is no finished run.
        ConfigError: when the tensor was not kept, or for an unknown name.
    """
    folder, asked, show = Path(run), options or CompareOptions(), reporter or Silent()
    scorer = Scorer.of_run(folder, memory=asked.memory, reporter=reporter)
    harm_table = read_harm(folder, scorer.influence)
    planted = planted_rows(harm_table)
    rows, scorings, notes = _choices(scorer, asked)
    harms = [found.harm for found in scorer.scores(scorings)]
    beside = _baselines(harm_table)
    rows += [_row("baseline", name) for name in beside]
    stacked = np.stack([*harms, *beside.values()])
    measures = [_agreements(stacked, len(harms), beside[LOSS])]
    if planted is not None:
        with show.track("noise detection", len(stacked)) as advance:
            found = []
            for harm in stacked:
                found.append(_detection(harm, planted, asked.resamples))
                advance(1)
        measures.insert(0, pd.DataFrame(found))
    else:
        names = ("ndr10", "ndr20", "ndr30", "auc", "auc_low", "auc_high")
        measures.insert(0, pd.DataFrame(np.nan, range(len(stacked)), names))
    table = pd.concat([pd.DataFrame(rows), *measures], axis=1)
    order = table.sort_values("agreement" if planted is None else "auc", ascending=False, kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    write_table(table, folder / TABLE)
    return Comparison(table, stacked[order.to_numpy()], planted, notes)


def _choices(scorer: Scorer, asked: CompareOptions) -> tuple[list[dict[str, object]], list[Scoring], tuple[str, ...]]:
    """Rows of the table and what is to be scored for each; groups without a module are left out with a note."""
    rows, scorings, notes = [], [], []
    for estimator in dict.fromkeys(asked.estimators or scorer.estimators):
        groups = _groups(scorer, estimator, asked.layers)
        left_out = [name for name, modules in groups.items() if not modules]
        if left_out and asked.layers:
            notes.append(f"{estimator} is not defined on {', '.join(left_out)}, which it is not compared by.")
        for name, modules in groups.items():
            for how, k in _aggregations(asked) if modules else ():
                scorings.append(Scoring(estimator, modules, how, k or 0.3, asked.only, asked.weigh, asked.trim))
                rows.append(_row("influence", estimator, name, how, k, len(modules)))
    if not scorings:
        raise ConfigError(f"There is nothing to compare: {' '.join(notes)} Choose other --layers or --estimator.")
    return rows, scorings, tuple(notes)


def _groups(scorer: Scorer, estimator: str, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The modules of each group that an estimator is defined on; of standard groups, those that differ."""
    scorer.modules(Scoring(estimator))  # refuses an estimator that is not there
    covered = scorer.influence["covered"].sel(estimator=estimator).values
    if not layers:
        return standard_groups(scorer.keys, covered)
    named = {name: select_modules(scorer.keys, _joined(name)) for name in layers}
    held = {name: tuple(m for m in modules if covered[m]) for name, modules in named.items()}
    return held | ({"all": tuple(deciding_modules(scorer.keys, covered, "all"))} if "all" in held else {})


def _joined(name: str) -> str:
    """A layer expression whose parts are joined by a plus, since the command line separates choices by commas."""
    return name if name.startswith("re:") else name.replace("+", ",")


def _aggregations(asked: CompareOptions) -> list[tuple[str, float | None]]:
    """Every aggregation with every k where it takes one.

    Raises:
        ConfigError: for an unknown name, or a k outside its range.
    """
    for how in asked.aggregate:
        for k in asked.k:
            check_aggregation(how, k, asked.trim)
        check_weighing(how, asked.weigh)
    takes = {how: "k" in AGGREGATIONS[how].needs for how in dict.fromkeys(asked.aggregate)}
    return [(how, k) for how, does in takes.items() for k in (dict.fromkeys(asked.k) if does else (None,))]


def _row(
    kind: str, estimator: str, layers: str = "", aggregate: str = "", k: float | None = None, modules: int = 0
) -> dict[str, object]:
    shown = np.nan if k is None else k
    return {
        "kind": kind,
        "estimator": estimator,
        "layers": layers,
        "aggregate": aggregate,
        "k": shown,
        "modules": modules,
    }


def _baselines(harm: pd.DataFrame) -> dict[str, np.ndarray]:
    """Harm of the loss and of the other baselines that a run computed."""
    columns = [str(c) for c in harm.columns if str(c).startswith("baseline_")]
    found = {c.removeprefix("baseline_"): harm[c].to_numpy(np.float64) for c in columns}
    return {LOSS: loss_harm(harm["loss"].to_numpy()), **{name: h for name, h in found.items() if name != LOSS}}


def _detection(harm: np.ndarray, noisy: np.ndarray, times: int) -> Mapping[str, float]:
    curve = noise_detection(harm, noisy)
    found = {"ndr10": curve.ndr(0.1), "ndr20": curve.ndr(0.2), "ndr30": curve.ndr(0.3), "auc": curve.auc}
    if not times:
        return {**found, "auc_low": np.nan, "auc_high": np.nan}
    interval = bootstrap(
        lambda rows: noise_detection(harm[rows], noisy[rows]).auc, len(harm), strata=noisy, times=times
    )
    return {**found, "auc_low": interval.low, "auc_high": interval.high}


def _agreements(harms: np.ndarray, influences: int, loss: np.ndarray) -> pd.DataFrame:
    """Mean Spearman with the other influences, and with the loss; of a constant harm both are NaN."""
    square = agreement({**{str(i): harm for i, harm in enumerate(harms)}, LOSS: loss}).to_numpy().copy()
    with_loss = square[:-1, -1]
    np.fill_diagonal(square, np.nan)
    others = square[:-1, :influences]
    known = np.isfinite(others)
    total, count = np.where(known, others, 0.0).sum(axis=1), known.sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return pd.DataFrame({"agreement": mean, "agreement_loss": with_loss})
