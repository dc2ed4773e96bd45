"""The tables of a study: which there are, what they say of themselves, and where they are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from undertow.errors import ConfigError
from undertow.study import measures, ranks
from undertow.study.frames import Frames
from undertow.study.published import DIFFER, SOURCE, beside
from undertow.study.writing import Table, escape_markdown, latex, markdown, write_file

_CELLS = "Brackets: 95% bootstrap interval over the cells; none of a single cell."
_BLOCKS = "Blocks are task, noise, rate and seed; brackets: 95% bootstrap interval over them; none of a single one."
_NO_CONTRAST = "fewer than two layer groups were measured in the same blocks"
_NO_RETRAINING = "nothing was retrained"
_NO_NOISE = "no noise was planted"

TABLES = (
    "layer-ranks",
    "aggregation-gains",
    "head-place",
    "proxies",
    "cancellation",
    "ndr-layers",
    "ndr-k",
    "ndr-best",
    "noise-ranks",
    "agreement",
    "filtering",
    "costs",
    "published",
)


@dataclass(frozen=True)
class Left:
    """What was left out, and why."""

    name: str
    why: str


def check_names(only: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """The names that are asked for, all of them where none is.

    Raises:
        ConfigError: for an unknown name.
    """
    wrong = [name for name in only if name not in known]
    if wrong:
        raise ConfigError(f"--only {', '.join(wrong)} is no {what}. There are: {', '.join(known)}.")
    return tuple(only) or tuple(known)


def make_tables(study: Frames, name: str, *, times: int = 1000) -> list[Table] | Left:
    """The tables of a name, several where there is one for each aggregation; or why there is none."""
    if name in ("layer-ranks", "ndr-layers"):
        make = {"layer-ranks": _layer_ranks, "ndr-layers": _ndr_layers}[name]
        made = [make(study, how, times) for how in ranks.aggregations(study)]
        why = _NO_CONTRAST if name == "layer-ranks" else _NO_NOISE
    else:
        title, caption, frame, why = _SINGLE[name]
        made = [Table(name, title, caption(study), frame(study, times))]
    full = [table for table in made if len(table.frame)]
    return full or Left(name, why)


def write_tables(
    study: Frames, out: Path, only: Sequence[str] = (), *, times: int = 1000
) -> tuple[list[Path], list[Left]]:
    """Write the tables as Markdown and LaTeX, and the page of the published numbers as Markdown.

    Returns:
        The files written, and what was left out with the reason.

    Raises:
        ConfigError: for an unknown name.
        RunFolderError: when a file cannot be written.
    """
    written, left = [], []
    for name in check_names(only, TABLES, "table"):
        if name == "published":
            pages = beside(study, times=times)
            if not pages:
                left.append(Left(name, "no published layer group and estimator was measured"))
                continue
            files = {"published.md": published_page(pages)}
        else:
            made = make_tables(study, name, times=times)
            if isinstance(made, Left):
                left.append(made)
                continue
            files = {f"{t.name}.{end}": form(t) for t in made for end, form in (("md", markdown), ("tex", latex))}
        for file, text in files.items():
            write_file(text, out / file)
            written.append(out / file)
    return written, left


def published_page(tables: Sequence[Table]) -> str:
    """One Markdown page of the tables that put published beside measured numbers."""
    head = f"# Beside the published numbers\n\nPublished: {escape_markdown(SOURCE)}. {escape_markdown(DIFFER)}\n"
    return "\n".join([head, *(f"#{markdown(table)}" for table in tables)])


def _layer_ranks(study: Frames, how: str, times: int) -> Table:
    caption = (
        f"Best first by average rank, within each model and estimator. {_outcome(study)} Groups that Wilcoxon's test, "
        f"corrected by Holm, does not tell apart share a statistical rank; a tie is half a win. {_BLOCKS}"
    )
    return Table(
        f"layer-ranks-{slug(how)}", f"Layer groups by {how}", caption, ranks.layer_ranks(study, how, times=times)
    )


def _ndr_layers(study: Frames, how: str, times: int) -> Table:
    caption = (
        f"Share of the planted noise found among the samples of highest harm; a random order finds p at NDR@p. {_CELLS}"
    )
    frame = measures.ndr_by_group(study, how, times=times)
    return Table(f"ndr-layers-{slug(how)}", f"Noise found by layer group, {how}", caption, frame)


def slug(how: str) -> str:
    """An aggregation as a part of a file name."""
    return how.replace(", ", "-").replace(" k=", "-k")


def _outcome(study: Frames) -> str:
    if study.retrained.empty:
        return "Nothing was retrained, so the outcome is NDR@30."
    cut = "" if study.cut is None else f" with {study.cut:.0%} removed"
    return f"The outcome is accuracy after retraining{cut}, or NDR@30 where what is compared was not retrained."


def _gains_caption(study: Frames) -> str:
    return (
        "Outcome minus that of the mean, for the layer group of highest mean outcome under each (best; chosen on the "
        f"same blocks, so somewhat high by chance) and for the average over groups (mean). {_outcome(study)} Win rate: "
        f"share of blocks in which it beats the mean, ties half. p: Wilcoxon, corrected by Holm. {_BLOCKS}"
    )


def _cut_caption(study: Frames) -> str:
    return "" if study.cut is None else f"{study.cut:.0%} of the samples were removed before retraining."


_Entry = tuple[str, Callable[[Frames], str], Callable[[Frames, int], pd.DataFrame], str]
_SINGLE: dict[str, _Entry] = {
    "aggregation-gains": (
        "What aggregations gain over the mean",
        _gains_caption,
        lambda study, times: ranks.aggregation_gains(study, times=times),
        "there is no mean aggregation and another one in the same blocks",
    ),
    "head-place": (
        "Place of TracIn on the head among all estimators and layer groups",
        lambda study: f"By average rank over blocks, 1 = best. {_outcome(study)}",
        lambda study, times: ranks.places(study),
        "TracIn on the head was not measured beside others",
    ),
    "proxies": (
        "Do measures without retraining order layer groups as accuracy does?",
        lambda study: (
            "Spearman correlation: within = mean over blocks, overall = all blocks together. "
            f"{_cut_caption(study)} {_BLOCKS}"
        ),
        lambda study, times: ranks.proxies(study, times=times),
        f"{_NO_RETRAINING}, or {_NO_CONTRAST}",
    ),
    "cancellation": (
        "Cancellation by layer group",
        lambda study: (
            "Mean ± standard deviation over cells; 1 = no cancellation. ρ: Spearman correlation over cells with the "
            f"outcome of the group under the mean aggregation. {_outcome(study)} {_CELLS}"
        ),
        lambda study, times: measures.cancellation(study, times=times),
        "cancellation was not measured",
    ),
    "ndr-k": (
        "Noise found by the k of vote",
        lambda study: f"Mean over layer groups. {_CELLS}",
        lambda study, times: measures.ndr_by_k(study, times=times),
        f"there is no vote, or {_NO_NOISE}",
    ),
    "ndr-best": (
        "Noise found by the best configurations and the baselines",
        lambda study: (
            "The five configurations of highest mean NDR@30; they were chosen by the noise they are measured on, so "
            f"their values are somewhat high by chance. {_CELLS}"
        ),
        lambda study, times: measures.ndr_best(study, times=times),
        _NO_NOISE,
    ),
    "noise-ranks": (
        "Normalised rank of noisy and clean samples by layer group",
        lambda study: f"0 = most detrimental, 1 = most helpful. {_CELLS}",
        lambda study, times: measures.noise_ranks(study, times=times),
        _NO_NOISE,
    ),
    "agreement": (
        "Agreement of layer groups",
        lambda study: f"Spearman correlation of their harm, over all samples and over the noisy ones. {_CELLS}",
        lambda study, times: measures.group_agreement(study, times=times),
        "fewer than two layer groups were measured",
    ),
    "filtering": (
        "Quality after filtering and retraining",
        lambda study: (
            "Noisy: all samples; oracle: without the planted ones; random: without as many as the cut, drawn "
            "at random. The three "
            "configurations of highest mean accuracy over the cells of a model, chosen on the same cells. Gain: "
            f"accuracy minus that of noisy. {_cut_caption(study)} {_CELLS}"
        ),
        lambda study, times: measures.filtering(study, times=times),
        _NO_RETRAINING,
    ),
    "costs": (
        "Cost by stage and method",
        lambda study: (
            "Seconds a cell, and of all cells together. Gradients serve every estimator, hidden states several "
            f"baselines; what estimators share, the one that was asked first bears. {_CELLS}"
        ),
        lambda study, times: measures.costs(study, times=times),
        "no stage reported its seconds",
    ),
}
