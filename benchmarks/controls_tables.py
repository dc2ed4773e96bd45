"""The tables of benchmarks/controls.py."""

from typing import Any

import numpy as np

from common import machine, table
from undertow.metrics.accuracy import accuracy_difference

RATES = ("0.1", "0.2", "0.35", "0.5")


def tables(found: list[dict[str, Any]]) -> str:
    """Promises, shares, orders, and what cleaning brings."""
    if not found:
        return "No case has run.\n"
    parts = (_summary(found), _promises(found), _shares(found), _orders(found), _cleaning(found))
    return f"Measured on a {machine()}.\n\n" + "\n".join(parts)


def _noise(f: dict[str, Any]) -> str:
    noise = "real" if f["kind"] == "real" else f"{f['level']:.0%} {f['kind']}"
    if f["kind"] != "real" and f["level"] == 0:
        noise = "clean"
    model = "" if f["model"] == "minilm" else ", SmolLM2"
    trusted = f"{f['trusted']} {'labelled again' if f.get('again') else 'trusted'}"
    return f"{f['data']}, {noise}{model}, {f['rows']:,} rows, {trusted}, seed {f['seed']}"


def _kinds(found: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    noisy = [f for f in found if f["true share"] > 0]
    real = [f for f in noisy if f["kind"] == "real"]
    groups = [
        ("real, validation rows trusted", [f for f in real if not f.get("again")]),
        ("real, rows labelled again", [f for f in real if f.get("again")]),
        ("planted", [f for f in noisy if f["kind"] != "real"]),
    ]
    return [(name, some) for name, some in groups if some]


def _summary(found: list[dict[str, Any]]) -> str:
    rows = []
    for name, some in _kinds(found):
        cuts = [f["cuts"][rate] for f in some for rate in RATES]
        made = [c for c in cuts if c["rows"]]
        errors = np.array([c["achieved"] - c["promised"][0] for c in made])
        broken = np.array([c["promised"][1] - c["achieved"] for c in made])
        regret = np.array([f["ndr"]["best"] - f["ndr"]["harm"] for f in some])
        held = np.mean([f["said"]["share_least"] <= f["true share"] for f in some])
        rows.append(
            (
                name,
                f"{len(some)}",
                f"{len(made)} of {len(cuts)}",
                f"{errors.mean():+.3f}" if made else "–",
                f"{np.abs(errors).mean():.3f}" if made else "–",
                f"{np.maximum(-errors, 0).mean():.3f}" if made else "–",
                f"{(broken > 0).mean():.0%} ({max(broken.max(), 0):.2f})" if made else "–",
                f"{held:.0%}",
                f"{regret.mean():.3f} ({regret.max():.3f})",
            )
        )
    head = ("noise", "audits", "cuts that flag rows", "achieved − promised, mean", "absolute", "shortfall, mean")
    head += ("below the 90% bound (worst)", "share's bound holds", "regret in NDR@30 (worst)")
    clean = [f for f in found if f["true share"] == 0]
    said = ", ".join(f"{f['flagged'] / f['rows']:.1%}" for f in clean)
    return (
        "**All in all**\n\n"
        + table(head, rows)
        + (f"\nOf clean data, {said} of the rows are flagged.\n" if clean else "")
    )


def _promises(found: list[dict[str, Any]]) -> str:
    rows = []
    for f in found:
        cells = []
        for rate in RATES:
            cut = f["cuts"][rate]
            cells.append(
                "0" if not cut["rows"] else f"{cut['rows']:,}: {cut['promised'][0]:.2f} / {cut['achieved']:.2f}"
            )
        rows.append((_noise(f), *cells))
    head = ("case", *(f"FDR {rate}" for rate in RATES))
    return "**Rows flagged: promised / achieved precision**\n\n" + table(head, rows)


def _shares(found: list[dict[str, Any]]) -> str:
    rows = []
    for f in found:
        said, rivals = f["said"], f["rivals"]
        like = f"{said['share_like_canaries']:.1%} ({said['share_low']:.0%}–{said['share_high']:.0%})"
        emq = f"{rivals['EMQ']['share']:.1%}" if "EMQ" in rivals else "–"
        cleanlab = f"{rivals['cleanlab']['share']:.1%}"
        known = [f"{f['true share']:.1%}", f"{said['share_least']:.1%}", like, emq, cleanlab]
        rows.append((_noise(f), *known, f"{said['effective']:.0f} of {said['trusted']}"))
    head = ("case", "truly wrong", "at least (95%)", "if like canaries", "EMQ", "cleanlab", "trusted rows that count")
    return "**Share of wrong labels**\n\n" + table(head, rows)


def _orders(found: list[dict[str, Any]]) -> str:
    rows = []
    names = ("harm", "best", "loss", "aum", "knn", "probe", "cosine, all, rank", "datainf, all, vote")
    for f in found:
        if "ndr" in f:
            cleanlab = f["rivals"]["cleanlab"]
            issues = f"{cleanlab['rows']:,}: {cleanlab['precision']:.2f}" if cleanlab["rows"] else "0"
            cells = [f"{f['ndr'][name]:.3f}" if name in f["ndr"] else "–" for name in names]
            rows.append((_noise(f), *cells, issues))
    head = ("NDR@30", "undertow", "best in hindsight", "loss", "AUM", "kNN", "probe", "cosine, Rank", "DataInf, Vote")
    return "**Order of the rows**\n\n" + table((*head, "cleanlab's issues: precision"), rows)


def _cleaning(found: list[dict[str, Any]]) -> str:
    rows = []
    for f in found:
        if "accuracy" not in f:
            continue
        arms = {name: np.array(hits, dtype=bool) for name, hits in f["accuracy"].items()}
        cells = [f"{arms['noisy'].mean():.1%}"]
        for name in ("dropped", "relabelled", "gold"):
            change = accuracy_difference(arms[name], arms["noisy"])
            span = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
            cells.append(f"{arms[name].mean():.1%} ({span})")
        said = f["suggestions"]
        shown = f"{said['rows']:,}: {said['said']:.2f} / {said['right']:.2f}" if said["rows"] else "0"
        rows.append((_noise(f), *cells, shown))
    head = ("test accuracy", "as given", "dropped", "relabelled", "gold labels", "suggestions: said / right")
    return "**What cleaning brings** (change in points, 95%)\n\n" + table(head, rows) if rows else ""
