"""The tables that benchmarks/calibration.py makes of its cases.

``found`` holds one dictionary a case: what was planted, and what `calibration.measures` found.
"""

from typing import Any

import numpy as np

from common import table

KINDS = ("uniform", "class", "instance")
# What a case has of the precision of its flagged and of its removed rows.
PROMISES = {"flagged": ("promised", "achieved"), "removed": ("removed promised", "removed achieved")}
# The columns that a table has of them.
CUT_COLUMNS = tuple(column for name in PROMISES for column in (name, "promised", "achieved"))


def tables(found: list[dict[str, Any]]) -> str:
    """The cases, and what they come to."""
    scores = ("calibrated", "best", "probe", "vote", "loss", "CL")
    head = ("noise", "share", "gather", "true", *CUT_COLUMNS, *scores)
    rows = []
    for f in found:
        value, low, high = f["share"]
        ndr = f.get("ndr", {})
        numbers = [f"{ndr[n]:.3f}" if n in ndr else "" for n in ("calibrated", "best", "probe", "vote", "loss")]
        numbers.append(f"{ndr['confident learning']:.3f}" if "confident learning" in ndr else "")
        cut = [told for name, keys in PROMISES.items() for told in cut_told(f[name], *(f[key] for key in keys))]
        share = f"{value:.1%} ({low:.1%}–{high:.1%})"
        name = f"{planted(f)}, seed {f['seed']}" + (", like" if f["like"] else "")
        rows.append((name, share, f"{f['gathering']:.0%}", f"{f['true share']:.1%}", *cut, *numbers))
    hard = [f for f in found if f["kind"] == "instance" and f["level"]]
    others = [f for f in found if f not in hard]
    curves = [
        f"{title}:\n\n{curve(some)}\n"
        for title, some in (("Clean data, uniform and one-sided flips", others), ("Flips of hard rows", hard))
        if some
    ]
    return f"{table(head, rows)}\n{''.join(curves)}{summary(found)}"


def curve(found: list[dict[str, Any]]) -> str:
    """Probabilities of being wrong, of several cases together, and how many are."""
    bins = [b for f in found for b in f["reliability"]]
    lines = []
    for low in np.arange(10) / 10:
        held = np.array([b for b in bins if low <= min(b[1], 0.999) < low + 0.1])
        if len(held):
            count = held[:, 0].sum()
            says, is_ = (float((held[:, i] * held[:, 0]).sum() / count) for i in (1, 2))
            lines.append((f"{low:.0%} to {low + 0.1:.0%}", f"{count:,.0f}", f"{says:.1%}", f"{is_:.1%}"))
    return table(("probability of being wrong", "rows", "mean", "wrong"), lines)


def planted(found: dict[str, Any]) -> str:
    """Model, task and noise of a case, as a table has them."""
    return f"{found['model']}, {found['task']}, {found['kind'] if found['level'] else 'clean'}"


def cut_told(share: float, promised: float | None, achieved: float | None) -> list[str]:
    """Share of the flagged or removed rows, their promised and achieved precision, as a table has them."""
    return [f"{share:.1%}", *("" if p is None else f"{p:.2f}" for p in (promised, achieved))]


def ways_told(noisy: list[dict[str, Any]]) -> list[str]:
    """NDR@30 of each way to one harm, averaged over some cases, as a line where there are any."""
    means = {way: np.mean([f["ways"][way] for f in noisy]) for way in ("average", "single", "learned")} if noisy else {}
    told = ", ".join(f"{way} {mean:.3f}" for way, mean in means.items())
    return [f"NDR@30 over the rows that are no canaries, by way: {told}."] if told else []


def clean_told(found: list[dict[str, Any]]) -> list[str]:
    """What was flagged of clean data at most, as a line where there is any."""
    clean = [f["flagged"] for f in found if not f["level"]]
    return [f"Flagged of clean data: at most {max(clean):.1%}."] if clean else []


def promises(found: list[dict[str, Any]], name: str) -> np.ndarray:
    """Promised and achieved precision of the flagged or removed rows, and how many; of each case that has some."""
    one, other = PROMISES[name]
    return np.array([(f[one], f[other], round(f[name] * f["rows"])) for f in found if f[name]]).reshape(-1, 3).T


def holds(found: dict[str, Any]) -> bool:
    """Whether the interval of the share holds the true one."""
    _, low, high = found["share"]
    return bool(low <= found["true share"] <= high)


def summary(found: list[dict[str, Any]]) -> str:
    """Regret, errors and accuracies over all cases."""
    noisy = [f for f in found if "ndr" in f]
    regrets = {
        name: [f["ndr"]["best"] - f["ndr"][name] for f in noisy if name in f["ndr"]]
        for name in ("calibrated", "probe", "vote", "rank", "loss", "confident learning")
    }
    lines = [
        f"Regret in NDR@30, {name}: mean {np.mean(r):.3f}, worst {max(r):.3f}." for name, r in regrets.items() if r
    ]
    gains = [f["ndr"]["calibrated"] - f["ndr"]["best without"] for f in noisy] or [float("nan")]
    lines.append(
        f"The calibrated harm is ahead of the best choice in hindsight other than the probe by {np.mean(gains):.3f} on "
        f"average, {min(gains):.3f} at least."
    )
    halves = [f["half regret"] for f in noisy] or [float("nan")]
    lines.append(
        f"Regret of the calibrated harm against the choice that is best by one half of the planted rows, by the other "
        f"half: mean {np.mean(halves):.3f}, worst {max(halves):.3f}."
    )
    lines += ways_told(noisy)
    errors = [abs(f["share"][0] - f["true share"]) for f in found]
    lines.append(
        f"Share: mean error {np.mean(errors):.3f}, worst {max(errors):.3f}; "
        f"in the interval {np.mean([holds(f) for f in found]):.0%}."
    )
    for kind in KINDS:
        some = [f for f in found if f["kind"] == kind and f["flagged"]]
        if some:
            off = np.mean([abs(f["share"][0] - f["true share"]) for f in some])
            flagged, removed = (np.abs(p - t).mean() for p, t, _ in (promises(some, name) for name in PROMISES))
            lines.append(
                f"Where rows are flagged, {kind}: mean error of the share {off:.3f}, in {sum(map(holds, some))} of "
                f"{len(some)} intervals; of the precision of the flagged rows {flagged:.3f}, of the removed ones "
                f"{removed:.3f}."
            )
    at_cuts = [abs(p - t) for f in found for _, p, t in f["cuts"]]
    for name in PROMISES:
        p, t, rows = promises(found, name)
        if len(rows):
            # What a promise that is kept on average would be off by, since so few rows are flagged.
            chance, gaps = np.sqrt(2 / np.pi * p * (1 - p) / rows), np.abs(p - t)
            lines.append(
                f"Precision of the {name} rows: mean error {gaps.mean():.3f}, worst {gaps.max():.3f}; chance alone "
                f"would make the mean {chance.mean():.3f}, were every promise right."
            )
    lines.append(f"Precision at fixed cuts: mean error {np.mean(at_cuts):.3f}, worst {max(at_cuts):.3f}.")
    lines += clean_told(found)
    for f in (f for f in found if "accuracy" in f):
        told = ", ".join(f"{name} {value:.3f}" for name, value in f["accuracy"].items())
        lines.append(f"Accuracy, {f['task']}, {f['kind']} {f['level']:.0%}, seed {f['seed']}: {told}.")
    extra = [f["extra"] for f in found]
    least, most = min(extra), max(extra)
    lines.append(f"Calibration took {np.median(extra):.1%} of an audit (median), {least:.1%} to {most:.1%}.")
    return "".join(f"- {text}\n" for text in lines)


def by_cell(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The cases that differ in their seed alone."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for f in found:
        cells.setdefault(tuple(f[name] for name in ("model", "task", "kind", "level", "rows", "like")), []).append(f)
    return list(cells.values())


def together(cell: list[dict[str, Any]], name: str) -> tuple[float, float | None, float | None]:
    """Share of the flagged or removed rows of all seeds, their promised and achieved precision; None without rows."""
    promised, achieved, rows = promises(cell, name)
    count = rows.sum()
    if not count:
        return 0.0, None, None
    return float(count / sum(f["rows"] for f in cell)), float(promised @ rows / count), float(achieved @ rows / count)


def on_average(cell: list[dict[str, Any]]) -> tuple[str, float, float]:
    """The choice with the highest mean NDR@30 over the seeds, that mean, and that of the calibrated harm."""
    means = {name: float(np.mean([f["choices"][name] for f in cell])) for name in cell[0]["choices"]}
    name = max(means, key=lambda choice: means[choice])
    return name, means[name], float(np.mean([f["ndr"]["calibrated"] for f in cell]))


def cell_tables(found: list[dict[str, Any]]) -> str:
    """Cells of several seeds: what was promised of all their rows, and the choice that is best on average."""
    scores = ("calibrated", "best", "regret", "at worst", "best choice")
    head = ("noise", "rows", "seeds", "share", "true", "intervals", *CUT_COLUMNS, *scores)
    cells = by_cell(found)
    said = [*cell_summary(cells), *clean_told(found)]
    return table(head, map(cell_line, cells)) + "\n" + "".join(f"- {text}\n" for text in said)


def cell_line(cell: list[dict[str, Any]]) -> list[str]:
    """A cell as the table has it; "at worst" is the regret in one seed against the best of that seed."""
    one = cell[0]
    share, true = (
        float(np.mean(values)) for values in ([f["share"][0] for f in cell], [f["true share"] for f in cell])
    )
    told = [planted(one), f"{one['rows']:,}", ", ".join(str(seed) for seed in sorted(f["seed"] for f in cell))]
    told += [f"{share:.1%}", f"{true:.1%}", f"{sum(map(holds, cell))} of {len(cell)}"]
    told += [text for name in PROMISES for text in cut_told(*together(cell, name))]
    if not one["level"]:
        return [*told, *[""] * 5]
    choice, best, mine = on_average(cell)
    worst = max(f["ndr"]["best"] - f["ndr"]["calibrated"] for f in cell)
    return [*told, *(f"{value:.3f}" for value in (mine, best, best - mine, worst)), choice]


def cell_summary(cells: list[list[dict[str, Any]]]) -> list[str]:
    """Regret, ways and precision over all cells."""
    said, noisy = [], [cell for cell in cells if cell[0]["level"]]
    if noisy:
        regrets = [best - mine for _, best, mine in map(on_average, noisy)]
        said.append(
            "Regret in NDR@30 of the calibrated harm against the choice that is best on average over the seeds: mean "
            f"{np.mean(regrets):.3f}, worst {max(regrets):.3f}."
        )
    said += ways_told([f for cell in noisy for f in cell])
    for name in PROMISES:
        cuts = [(cell[0]["kind"], *together(cell, name)) for cell in cells]
        for title, kinds in (("all", KINDS), *((kind, (kind,)) for kind in KINDS)):
            off = np.array([promised - achieved for kind, share, promised, achieved in cuts if share and kind in kinds])
            if len(off):
                said.append(
                    f"Precision of the {name} rows of all seeds together, {title}: mean error "
                    f"{np.abs(off).mean():.3f}, promised minus achieved from {off.min():.3f} to {off.max():.3f}."
                )
    return said
