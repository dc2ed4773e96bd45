"""The small parts of a report: the cards at its top, the tables beside the figures, what the words mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from undertow.report.model import Arm, Judged, ReportData
from undertow.report.text import clip, count, duration, fixed, memory, percent, points


@dataclass(frozen=True)
class Card:
    """One number at the top of the page; ``tone`` names its colour, "" for none."""

    title: str
    value: str
    detail: str
    tone: str = ""


def cards(data: ReportData) -> list[Card]:
    """The numbers a reader wants first; those that were not measured are left out."""
    n, flagged = len(data.harm), int(data.harm["flagged"].sum())
    share = f"of {count(n)} rows, {percent(flagged / n)}"
    removed = int(data.harm["removed"].sum())
    if removed < flagged:
        left_out = data.remedy in ("", "dropped")
        what = "are left out of the cleaned set" if left_out else "are sure enough to be acted on unseen"
        share += f"; {count(removed)} of them {what}"
    found = [Card("Flagged", count(flagged), share, "flagged" if flagged else "")]
    found += [_planted_card(data)] if data.truth_known else _doubt_card(data)
    return [*found, *_accuracy_card(data), *_ndr_card(data)]


def _planted_card(data: ReportData) -> Card:
    planted, flagged = (data.harm[name].to_numpy(dtype=bool) for name in ("planted", "flagged"))
    hits = int((planted & flagged).sum())
    detail = f"{count(hits)} of {count(int(planted.sum()))} planted rows flagged"
    if flagged.any():
        detail += f"; {percent(hits / int(flagged.sum()))} of the flagged rows are planted"
    return Card("Planted noise found", percent(hits / int(planted.sum())), detail, "planted")


def _doubt_card(data: ReportData) -> list[Card]:
    flagged = data.harm[data.harm["flagged"].astype(bool)]
    if flagged.empty:
        return []
    suggested = flagged["suggested_label"]
    other = int((suggested.notna() & (suggested.astype(str) != flagged["label"].astype(str))).sum())
    detail = f"{count(other)} of {count(len(flagged))} flagged rows have another suggested than given label"
    return [Card("Labels in doubt", percent(other / len(flagged)), detail)]


def _accuracy_card(data: ReportData) -> list[Card]:
    given = next((arm for arm in data.arms if arm.name == "as given"), None)
    best = next((arm for arm in data.arms if arm.name == data.remedy), None)
    if given is None or best is None:
        return []
    if best is given:
        return [Card("Accuracy", percent(given.accuracy), "as given; no remedy helped measurably")]
    span = f"{points(best.difference_low)} to {points(best.difference_high)} points, 95%"
    detail = f"{points(best.difference)} points ({span}): {percent(given.accuracy)} as given"
    return [Card(f"Accuracy, {best.name}", percent(best.accuracy), detail)]


def _ndr_card(data: ReportData) -> list[Card]:
    by_name = {curve.name: curve for curve in data.curves}
    if not by_name:
        return []
    main = by_name.get("audit", data.curves[0])
    known = [name for name in ("loss", "random", "ideal") if name in by_name]
    ndr = f"NDR@10/20/30: {' / '.join(fixed(value, 2) for value in (main.ndr10, main.ndr20, main.ndr30))}"
    others = ", ".join(f"{name} {fixed(by_name[name].auc, 2)}" for name in known)
    detail = f"{ndr}; AUC-NDR of {others}" if others else ndr
    return [Card("AUC-NDR", fixed(main.auc, 2), detail)]


def settings(data: ReportData) -> list[tuple[str, str]]:
    """How the audit was set, next to the cards."""
    return [
        ("Estimator", data.estimator),
        ("Layers", data.layers),
        ("Aggregation", data.aggregation),
        ("Cut", f"the worst {100 * data.cut:.3g}%"),
    ]


def judged_table(judged: Sequence[Judged]) -> list[tuple[str, str, str, bool]]:
    """Name of each score, its AUROCs with intervals, and whether it is the harm."""

    def shown(value: tuple[float, float, float] | None) -> str:
        return "" if value is None else f"{fixed(value[0], 3)} ({fixed(value[1], 3)}–{fixed(value[2], 3)})"

    return [(clip(j.name, 60), shown(j.canaries), shown(j.anchors), j.used) for j in judged]


def transition_table(transitions: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, str]]:
    """Given label, likely true label, and share of all rows."""
    return [(clip(given, 40), clip(true, 40), percent(share)) for given, true, share in transitions]


def source_table(sources: Sequence[tuple[str, int, float, float, float]]) -> list[tuple[str, str, str, str]]:
    """Name, rows, share of wrong labels and interval of each source."""
    return [
        (clip(name, 40), count(rows), percent(rate, 0), f"{fixed(100 * low, 0)}–{percent(high, 0)}")
        for name, rows, rate, low, high in sources
    ]


def class_list(classes: Sequence[str], shown: int = 8) -> str:
    """The class names, the first few of many."""
    names = ", ".join(clip(name, 40) for name in classes[:shown])
    return f"{names} and {count(len(classes) - shown)} more" if len(classes) > shown else names


def curve_table(data: ReportData) -> list[tuple[str, list[str]]]:
    """Name, NDR@10, NDR@20, NDR@30 and AUC-NDR of each curve."""
    return [
        (clip(curve.name, 60), [fixed(v, 3) for v in (curve.ndr10, curve.ndr20, curve.ndr30, curve.auc)])
        for curve in data.curves
    ]


def arm_table(arms: Sequence[Arm]) -> list[dict[str, str]]:
    """One line for each retraining arm, with its difference from the arm "as given"."""
    given = next((arm for arm in arms if arm.name == "as given"), None)
    return [
        {
            "name": arm.name,
            "rows": count(arm.rows),
            "accuracy": percent(arm.accuracy),
            "interval": f"{fixed(100 * arm.low, 1)}–{percent(arm.high)}",
            "change": _change(arm) if given and arm is not given else "",
            "note": arm.note,
        }
        for arm in arms
    ]


def _change(arm: Arm) -> str:
    return f"{points(arm.difference)} ({points(arm.difference_low)} to {points(arm.difference_high)})"


def stage_table(data: ReportData) -> list[tuple[str, str, str]]:
    """Name, time and peak memory of each stage, and of all of them."""
    lines = [(stage.name, duration(stage.seconds), memory(stage.peak_memory_mb)) for stage in data.stages]
    if len(lines) > 1:
        seconds = float(np.nansum([stage.seconds for stage in data.stages]))
        peak = max(stage.peak_memory_mb for stage in data.stages)
        lines.append(("All stages", duration(seconds), memory(peak)))
    return lines


_ALWAYS = (
    ("Harm", "How much a training row works against the trusted validation set. Higher is worse."),
    ("Query", "A sample of the trusted validation set. Each row is judged by its effect on all queries."),
    ("Influence", "How the loss on a query would change if a training row weighed more, seen at one module."),
    ("Estimator", "The formula that approximates influence from gradients, without retraining."),
    ("Aggregation", "The rule that turns a row's influences, over queries and modules, into its harm."),
    ("Layer group", "Modules that are judged together, such as the attention of one block or the head."),
    ("Cut", "The share of rows, worst first, that is flagged, to be looked through."),
    ("Suggested label", "The label undertow would give a row. A proposal to check, not a correction."),
    ("Loss", "How surprised the model is by the given label. High also for rows that are hard but right."),
)
_WITH_TRUTH = (
    ("Planted noise", "Labels changed on purpose before training, so that it is known what is to be found."),
    ("NDR@k", "Noise detection rate: the share of the planted noise among the worst k% of the rows."),
    ("AUC-NDR", "The area under the NDR curve, divided by that of the ideal order: 1 is the best."),
)
_WITH_CONTROLS = (
    ("Anchor", "A trusted row that was trained on like all others. Its harm is that of a row known to be good."),
    ("Canary", "A row that was given a wrong label before training, to see which scores find it. All are undone."),
    ("AUROC", "How often the first has the higher harm, of all pairs of the two kinds of rows. 0.5 is chance."),
    ("Wrong", "The probability that the label of a row is wrong: 1 minus its local false discovery rate."),
)
_WITH_ARMS = (
    (
        "Retraining arm",
        "The model trained again: as given; dropped, without the removed rows; relabelled, with suggested labels that "
        "are likelier right; down-weighted, every row by the probability that its label is right; random removal, "
        "without as many rows by chance; oracle, without the planted noise or with the original labels.",
    ),
)


def words(data: ReportData) -> list[tuple[str, str]]:
    """The terms the page uses and what they mean."""
    truth = _WITH_TRUTH if data.truth_known or data.curves else ()
    controls = _WITH_CONTROLS if data.controls else ()
    return [*_ALWAYS, *controls, *truth, *(_WITH_ARMS if data.arms else ())]
