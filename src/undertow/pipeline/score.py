"""Aggregating the influence of a run anew: by other layers, another aggregation, and how stable that is."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from undertow.aggregation.cut import check_cut, flag, harm_ranks
from undertow.aggregation.names import AGGREGATIONS, check_aggregation
from undertow.aggregation.stability import Bootstrap
from undertow.errors import ConfigError, RunFolderError
from undertow.pipeline.run_folder import RunFolder
from undertow.pipeline.scorer import Scored, Scorer, Scoring, memory_bytes
from undertow.pipeline.settings import DEFAULT_CUT
from undertow.pipeline.whole import whole
from undertow.pipeline.written import read_harm
from undertow.progress import Bars, Reporter, Silent

# Where a run folder keeps the tables.
SCORES = "scores"
# What a table takes from the harm table of the audit: all that does not depend on an aggregation.
_ROW = ("row", "text", "text_pair", "label", "predicted_label", "predicted_probability", "loss")
_TRUTH = ("planted", "original_label")


@dataclass(frozen=True)
class ScoreOptions:
    """What is to be aggregated anew; None is as in the run. See `score`."""

    estimator: str | None = None
    layers: str | None = None
    aggregate: tuple[str, ...] | None = None
    k: tuple[int | float, ...] | None = None
    only: tuple[str, ...] | None = None
    weigh: str | None = None
    trim: int | float = 0.1
    cut: int | float | None = None
    bootstrap: int | None = None
    resample: str = "queries"
    memory: int | float | None = None
    out: Path | None = None


@dataclass(frozen=True)
class ScoreTable:
    """One scoring of a run as a table.

    Attributes:
        table: one row per training sample, in the order of the samples (see `score`).
        scored: what was asked for, the modules that decided, and the harm.
        cut: share of the rows that is flagged.
        path: the file that holds the table.
    """

    table: pd.DataFrame
    scored: Scored
    cut: int | float
    path: Path


def score(
    run: str | Path,
    *,
    estimator: str | None = None,
    layers: str | None = None,
    aggregate: str | None = None,
    k: int | float | None = None,
    only: Sequence[str] | None = None,
    weigh: str | None = None,
    trim: int | float = 0.1,
    cut: int | float | None = None,
    bootstrap: int | None = None,
    resample: str = "queries",
    memory: int | float | None = None,
    out: str | Path | None = None,
    progress: bool | Reporter = True,
) -> pd.DataFrame:
    """Aggregate the influence of a run anew and return the table, which is also kept in ``RUN/scores``.

    What is not given is as in the run. Columns: row, text, text_pair (where there is one), label, predicted_label,
    predicted_probability, loss, harm (higher = worse), rank (1 = most harmful), flagged; with ``bootstrap`` also
    harm_low and harm_high, a 95% interval, and flagged_share, the share of the resamples that flag the row; with
    planted noise planted and original_label.

    Args:
        run: run folder of an audit that kept its tensor.
        estimator: one that the run computed.
        layers: which modules decide.
        aggregate: name of the aggregation.
        k: for vote: share of the samples, or a whole number of them above 1.
        only: which queries count: all, correct, same-label, other-label.
        weigh: equal, balanced or confidence.
        trim: for trimmed: share of the values left out on each side.
        cut: share of the rows to flag.
        bootstrap: number of resamples; none by default.
        resample: what is drawn anew: queries, modules or both.
        memory: GB to stay within; half of what is free by default.
        out: file instead of one in the run folder.
        progress: True shows bars, False nothing, a `Reporter` whatever it does.

    Raises:
        RunFolderError: when the folder is no finished run, or the file holds something else.
        ConfigError: for an option that is not known, out of range, or not possible with this run.
    """
    show = progress if not isinstance(progress, bool) else (Bars(Console(stderr=True)) if progress else Silent())
    options = ScoreOptions(
        estimator,
        layers,
        None if aggregate is None else (aggregate,),
        None if k is None else (k,),
        None if only is None else tuple(only),
        weigh,
        trim,
        cut,
        bootstrap,
        resample,
        memory,
        None if out is None else Path(out),
    )
    return score_tables(Path(run), options, show)[0].table


def score_tables(run: Path, options: ScoreOptions, reporter: Reporter | None = None) -> list[ScoreTable]:
    """Every aggregation asked for, vote with every k, from one pass over the tensor; each is kept in a file.

    Raises:
        RunFolderError: when the folder is no finished run, or a file holds something else.
        ConfigError: for an option that is not known, out of range, or not possible with this run.
    """
    folder = RunFolder.made(run)
    asked = folder.manifest["configuration"]
    scorer = Scorer.of_run(run, memory=memory_bytes(options.memory), reporter=reporter)
    harm = read_harm(folder.path, scorer.influence)
    scorings = _scorings(options, asked)
    cut, seed = _cut_of(folder) if options.cut is None else options.cut, int(asked["seed"])
    check_cut(cut)
    bootstrap = None
    if options.bootstrap is not None:
        bootstrap = Bootstrap(options.bootstrap, options.resample, seed, cut)
    if options.out is not None and len(scorings) > 1:
        raise ConfigError(
            f"--out names one file, and {len(scorings)} tables are asked for. Ask for one, or leave it out."
        )
    made_of = {"cut": cut, "seed": seed, "bootstrap": options.bootstrap, "resample": options.resample}
    made_of["influence"] = scorer.influence.attrs.get("fingerprint")
    told = [json.loads(json.dumps({"scoring": asdict(s), **made_of})) for s in scorings]
    names = [score_name(s, options, asked) for s in scorings]
    paths = [options.out or folder.path / SCORES / f"{name}.parquet" for name in names]
    for path, identity in zip(paths, told, strict=True):
        _check_file(path, identity)
    tables = []
    for found, path, identity in zip(scorer.scores(scorings, bootstrap), paths, told, strict=True):
        table = _table(harm, found, cut, seed)
        table.attrs.update(identity)
        _write(table, path)
        tables.append(ScoreTable(table, found, cut, path))
    return tables


def _cut_of(folder: RunFolder) -> float:
    """The share that the run flagged; the default where that was nothing."""
    flagged: float | None = folder.manifest.get("results", {}).get("cut")
    return flagged or folder.manifest["configuration"]["cut"] or DEFAULT_CUT


def _scorings(options: ScoreOptions, asked: Mapping[str, Any]) -> list[Scoring]:
    """What is asked for; every aggregation with every parameter that it takes."""
    counted = (*asked.get("only", ()), *(["correct"] if asked["correct_only"] else []))
    found = []
    for how in options.aggregate or (asked["aggregate"],):
        given = options.k or (asked["k"],)
        for k in given:
            check_aggregation(how, k, options.trim)
        for k in given if "k" in AGGREGATIONS[how].needs else (asked["k"],):
            scoring = Scoring(
                options.estimator or asked["estimators"][0],
                options.layers or asked["layers"],
                how,
                k,
                options.only or tuple(n for n in dict.fromkeys(counted) if n != "all") or ("all",),
                options.weigh or asked.get("weigh", "equal"),
                options.trim,
            )
            found.append(scoring)
    return list(dict.fromkeys(found))


def score_name(scoring: Scoring, options: ScoreOptions, asked: Mapping[str, Any]) -> str:
    """A name for the file of a table that says what it is; two that differ have different names."""
    layers = str(scoring.layers)
    plain = re.sub(r"[^A-Za-z0-9,_-]+", "-", layers)[:40]
    if plain != layers:
        plain += "-" + hashlib.sha256(layers.encode()).hexdigest()[:8]
    needs = AGGREGATIONS[scoring.aggregate].needs
    parts = [str(scoring.estimator), plain, scoring.aggregate]
    parts += [f"k{scoring.k:g}"] if "k" in needs else []
    parts += [f"trim{scoring.trim:g}"] if "trim" in needs else []
    parts += ["+".join(scoring.only)] if scoring.only != ("all",) else []
    parts += [scoring.weigh] if scoring.weigh != "equal" else []
    parts += [f"cut{options.cut:g}"] if options.cut not in (None, asked["cut"]) else []
    if options.bootstrap is not None:
        over = "" if options.resample == "queries" else f"-{options.resample}"
        parts.append(f"bootstrap{options.bootstrap}{over}")
    return "_".join(parts)


def _table(harm: pd.DataFrame, found: Scored, cut: int | float, seed: int) -> pd.DataFrame:
    table = harm[[name for name in _ROW if name in harm]].copy()
    ranks = harm_ranks(found.harm, seed=seed)
    table["harm"], table["rank"], table["flagged"] = found.harm, ranks, flag(ranks, cut)
    if found.stability is not None:
        table["harm_low"], table["harm_high"] = found.stability.low, found.stability.high
        table["flagged_share"] = found.stability.flagged
    for name in (n for n in _TRUTH if n in harm):
        table[name] = harm[name]
    return table


def _check_file(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to replace anything but the same table.

    Raises:
        RunFolderError: says what to do.
    """
    if not path.exists():
        return
    try:
        same = pd.read_parquet(path, columns=["row"]).attrs == identity
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        raise RunFolderError(
            f"{path} exists and holds something else than what is asked for now. Nothing was touched. Move it, or name "
            "another file with --out."
        )


def _write(table: pd.DataFrame, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            table.to_parquet(temporary, index=False)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Give --out a file in a place that you may write to."
        ) from error
