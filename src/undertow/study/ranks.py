"""Tables that rank: layer groups, aggregations, and measures that need no retraining."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from undertow.metrics.comparison import average_ranks, comparison_table, holm, pairwise_wins, wilcoxon_holm, win_rates
from undertow.metrics.intervals import Interval
from undertow.metrics.proxies import proxy_correlation
from undertow.study.frames import CELL, Complete, Frames, family, mean_interval, scores_of, with_interval

PROXIES = ("ndr30", "auc_ndr", "cancellation")
MEAN = "mean"


def aggregations(study: Frames) -> list[str]:
    """The aggregations of a study as ``how`` names them, the plain mean first."""
    hows = [str(how) for how in study.influence["how"].unique()]
    return sorted(hows, key=lambda how: how != MEAN)


def layer_ranks(study: Frames, how: str = MEAN, *, times: int = 1000) -> pd.DataFrame:
    """Layer groups ranked within each model and estimator, best first.

    Blocks are task, noise, rate and seed. The outcome is accuracy after retraining, or NDR@30 for an estimator of which
    no two groups were retrained. Estimators of word embeddings alone stand among the groups of the estimator they come
    from.
    """
    rows: list[dict[str, Any]] = []
    for model, name, judged in _by_estimator(study, how):
        compared = _comparison(judged, "group", lambda scores: scores.shape[1] > 1)
        if compared is None:
            continue
        found, outcome = compared
        for group, line in comparison_table(found.scores, times=times).iterrows():
            mean = mean_interval(found.scores[group], times=times)
            rows.append(
                {
                    **{"model": model, "estimator": name, "group": group, "outcome": outcome},
                    "blocks": len(found.scores),
                    "statistical_rank": int(line["statistical_rank"]),
                    **_measured("average_rank", line, len(found.scores)),
                    **_measured("win_rate", line, len(found.scores)),
                    **with_interval("mean", mean),
                    **_left_out(found),
                }
            )
    return pd.DataFrame(rows)


def _measured(name: str, line: "pd.Series[Any]", blocks: int) -> dict[str, float]:
    """A measure of a comparison with its interval, of which a single block has none."""
    return with_interval(name, _known(Interval(line[name], line[f"{name}_low"], line[f"{name}_high"]), blocks))


def _known(interval: Interval, blocks: int) -> Interval:
    return interval if blocks > 1 else Interval(interval.value, np.nan, np.nan)


def aggregation_gains(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """What each aggregation gains over the mean, by its best layer group and on average over the groups.

    The best group of an aggregation is the one of highest mean outcome over all blocks. The win rate is the share of
    blocks in which the aggregation beats the mean, ties half; p is Wilcoxon's, corrected by Holm over the
    aggregations of a model and estimator.
    """
    rows: list[dict[str, Any]] = []
    for model, name, judged in _by_estimator(study):
        compared = _comparison(judged, ["how", "group"], _beside_mean)
        if compared is None:
            continue
        found, outcome = compared
        for over in ("best", "mean"):
            rows += [
                {"model": model, "estimator": name, "over": over, "outcome": outcome, **row, **_left_out(found)}
                for row in _gains(found.scores, over, times)
            ]
    return pd.DataFrame(rows)


def _beside_mean(scores: pd.DataFrame) -> bool:
    hows = set() if scores.empty else set(scores.columns.get_level_values("how"))
    return MEAN in hows and len(hows) > 1


def _gains(scores: pd.DataFrame, over: str, times: int) -> list[dict[str, Any]]:
    hows = [how for how in scores.columns.get_level_values("how").unique() if how != MEAN]
    values: dict[str, pd.Series] = {}
    groups: dict[str, str] = {}
    for how in [MEAN, *hows]:
        of_how = pd.DataFrame(scores.xs(how, axis=1, level="how"))
        groups[how] = str(of_how.mean().idxmax()) if over == "best" else ""
        values[how] = of_how[groups[how]] if over == "best" else of_how.mean(axis=1)
    pairs = {how: pd.DataFrame({how: values[how], MEAN: values[MEAN]}) for how in hows}
    p_values = holm(np.array([wilcoxon_holm(pairs[how]).loc[how, MEAN] for how in hows]))
    return [
        {
            "aggregation": how,
            "group": groups[how],
            "group_of_mean": groups[MEAN],
            "blocks": len(scores),
            **with_interval("difference", mean_interval(values[how] - values[MEAN], times=times)),
            "win_rate": float(pairwise_wins(pairs[how]).loc[how, MEAN]),
            "p": float(p),
        }
        for how, p in zip(hows, p_values, strict=True)
    ]


def places(study: Frames, estimator: str = "tracin", layers: str = "head") -> pd.DataFrame:
    """The place by average rank of one estimator and layer group among all of them, under each aggregation.

    Beside it the highest win rate that any of them has.
    """
    rows: list[dict[str, Any]] = []
    for model in study.models:
        for how in aggregations(study):
            compared = _comparison(
                [(rows[rows["how"] == how], outcome) for rows, outcome in study.outcomes(model)],
                ["estimator", "layers"],
                lambda scores: (estimator, layers) in scores.columns and scores.shape[1] > 1,
            )
            if compared is None:
                continue
            found, outcome = compared
            ranks = average_ranks(found.scores)
            place = int((ranks < ranks[(estimator, layers)]).sum()) + 1
            rows.append(
                {
                    **{"model": model, "aggregation": how, "estimator": estimator, "group": layers},
                    **{"outcome": outcome, "place": place, "of": len(ranks)},
                    "average_rank": float(ranks[(estimator, layers)]),
                    "best_win_rate": float(win_rates(found.scores).max()),
                    "blocks": len(found.scores),
                    **_left_out(found),
                }
            )
    return pd.DataFrame(rows)


def proxies(study: Frames, *, times: int = 1000) -> pd.DataFrame:
    """Spearman correlation of measures that need no retraining with accuracy after it, over the layer groups.

    ``within`` is the mean over blocks of the correlation within each; ``overall`` takes all blocks together.
    """
    known = study.layers[[*CELL, "estimator", "layers", "cancellation"]]
    rows: list[dict[str, Any]] = []
    for how in aggregations(study):
        for model, name, judged in _by_estimator(study, how):
            part, outcome = judged[0]
            if outcome != "accuracy":
                continue
            joined = part.merge(known.drop_duplicates([*CELL, "estimator", "layers"]), how="left")
            for proxy in PROXIES:
                both = joined[joined[proxy].notna() & np.isfinite(joined[proxy])]
                found = scores_of(both, outcome, "group")
                if found.scores.shape[1] < 2:
                    continue
                of_proxy = both.pivot_table(index=found.scores.index.names, columns="group", values=proxy, sort=False)
                of_proxy = of_proxy.loc[found.scores.index, found.scores.columns]
                result = proxy_correlation(of_proxy, found.scores, times=times)
                rows.append(
                    {
                        **{"model": model, "estimator": name, "aggregation": how, "proxy": proxy},
                        **{"blocks": len(found.scores), "configurations": found.scores.shape[1]},
                        **with_interval("within", _known(result.within, len(found.scores))),
                        **with_interval("overall", _known(result.overall, len(found.scores))),
                        **_left_out(found),
                    }
                )
    return pd.DataFrame(rows)


_Judged = list[tuple[pd.DataFrame, str]]


def _by_estimator(study: Frames, how: str | None = None) -> Iterator[tuple[str, str, _Judged]]:
    """Model, estimator, and its rows by each outcome they may be judged by, with the columns family and group."""
    for model in study.models:
        found: dict[str, _Judged] = {}
        for known, outcome in study.outcomes(model):
            joined = family(known if how is None else known[known["how"] == how])
            for name, part in joined.groupby("family", sort=False):
                found.setdefault(str(name), []).append((part, outcome))
        for name, judged in found.items():
            yield model, name, judged


def _comparison(
    judged: _Judged, columns: str | list[str], holds: Callable[[pd.DataFrame], bool]
) -> tuple[Complete, str] | None:
    """The scores by the first outcome that holds what is compared, and which that is."""
    for rows, outcome in judged:
        found = scores_of(rows, outcome, columns)
        if holds(found.scores):
            return found, outcome
    return None


def _left_out(found: Complete) -> dict[str, int]:
    return {"blocks_left_out": found.blocks_left, "configurations_left_out": found.configurations_left}
