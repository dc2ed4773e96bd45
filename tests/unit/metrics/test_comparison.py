"""Ranks and tests against published examples, scipy, statsmodels and scikit-posthocs."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import friedmanchisquare, wilcoxon
from statsmodels.stats.multitest import multipletests

from undertow.metrics import comparison
from undertow.metrics.comparison import (
    average_ranks,
    block_ranks,
    comparison_table,
    critical_difference,
    friedman,
    holm,
    nemenyi,
    pairwise_wins,
    statistical_ranks,
    wilcoxon_holm,
    win_rates,
)

# Demšar 2006, table 6: AUC of C4.5 with m and cf tuned on 14 data sets.
DEMSAR = pd.DataFrame(
    [
        (0.763, 0.768, 0.771, 0.798),
        (0.599, 0.591, 0.590, 0.569),
        (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657),
        (0.882, 0.888, 0.886, 0.898),
        (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685),
        (0.583, 0.583, 0.563, 0.625),
        (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000),
        (0.940, 0.962, 0.965, 0.962),
        (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.9751, 0.975),  # both printed as 0.975, with the ranks 2 and 3
        (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)

# Hollander & Wolfe 1973, p. 140: seconds to round first base in three ways (the example of R's friedman.test).
ROUNDING = pd.DataFrame(
    [
        *[(5.40, 5.50, 5.55), (5.85, 5.70, 5.75), (5.20, 5.60, 5.50), (5.55, 5.50, 5.40), (5.90, 5.85, 5.70)],
        *[(5.45, 5.55, 5.60), (5.40, 5.40, 5.35), (5.45, 5.50, 5.35), (5.25, 5.15, 5.00), (5.85, 5.80, 5.70)],
        *[(5.25, 5.20, 5.10), (5.65, 5.55, 5.45), (5.60, 5.35, 5.45), (5.05, 5.00, 4.95), (5.50, 5.50, 5.40)],
        *[(5.45, 5.55, 5.50), (5.55, 5.55, 5.35), (5.45, 5.50, 5.55), (5.50, 5.45, 5.25), (5.65, 5.60, 5.40)],
        *[(5.70, 5.65, 5.55), (6.30, 6.30, 6.25)],
    ],
    columns=["round out", "narrow angle", "wide angle"],
)

# Hollander & Wolfe 1973, p. 29: depression before and after (the example of R's wilcox.test).
DEPRESSION = pd.DataFrame(
    {
        "before": [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
        "after": [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29],
    }
)


def test_ranks_of_demsar():
    ranks = block_ranks(DEMSAR)
    assert ranks.iloc[0].tolist() == [4, 3, 2, 1]
    assert ranks.iloc[5].tolist() == [1, 2.5, 4, 2.5]
    assert ranks.iloc[9].tolist() == [2.5] * 4
    # The averages that the paper prints: 3.143, 2.000, 2.893, 1.964.
    found = average_ranks(DEMSAR).round(3)
    assert found.to_dict() == {"C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert found.index.tolist() == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]


def test_friedman_of_demsar():
    # The paper's 9.28 is without the correction for ties, which the test below has from Hollander & Wolfe.
    average = average_ranks(DEMSAR).to_numpy()
    assert 12 * 14 / (4 * 5) * ((average**2).sum() - 4 * 5**2 / 4) == pytest.approx(9.28, abs=0.005)
    found = friedman(DEMSAR)
    assert found.statistic == pytest.approx(friedmanchisquare(*DEMSAR.to_numpy().T).statistic)
    assert found.statistic > 9.28
    assert (found.blocks, found.configurations) == (14, 4)


def test_friedman_of_hollander_and_wolfe():
    found = friedman(ROUNDING)
    assert found.statistic == pytest.approx(11.1429, abs=5e-5)
    assert found.p_value == pytest.approx(0.003805, abs=5e-7)


@pytest.mark.parametrize(
    ("configurations", "alpha", "quantile"),
    # Demšar 2006, table 5(a).
    [(2, 0.05, 1.960), (4, 0.05, 2.569), (10, 0.05, 3.164), (2, 0.10, 1.645), (4, 0.10, 2.291), (10, 0.10, 2.920)],
)
def test_quantiles_of_nemenyi(configurations: int, alpha: float, quantile: float):
    scale = np.sqrt(configurations * (configurations + 1) / (6 * 14))
    assert critical_difference(configurations, 14, alpha=alpha) == pytest.approx(quantile * scale, abs=1e-3)


def test_nemenyi_of_demsar():
    # "at p = 0.10, CD is 1.12": C4.5 differs from C4.5+m and from C4.5+m+cf by 1.143 and 1.179, and no others do.
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=0.005)
    found = nemenyi(DEMSAR)
    small = {(a, b) for a in found for b in found if found.loc[a, b] < 0.10}
    expected = {("C4.5", "C4.5+m"), ("C4.5", "C4.5+m+cf")}
    assert small == expected | {(b, a) for a, b in expected}
    assert (found < 0.05).sum(axis=None) == 0


def test_nemenyi_against_scikit_posthocs():
    scores = pd.DataFrame(np.random.default_rng(0).integers(0, 5, (12, 5)) + np.arange(5) / 2)
    other = scikit_posthocs.posthoc_nemenyi_friedman(scores.to_numpy())
    np.testing.assert_allclose(nemenyi(scores), other, atol=1e-6)


def test_wilcoxon_of_hollander_and_wolfe():
    # One-sided p = 0.01953 from V = 40; two-sided twice that.
    found = wilcoxon_holm(DEPRESSION)
    assert found.loc["before", "after"] == pytest.approx(0.0390625)
    assert found.loc["after", "before"] == found.loc["before", "after"]
    assert found.loc["before", "before"] == 1


def test_wilcoxon_against_scipy_and_statsmodels():
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 4)) + np.array([0, 0.4, 0.8, 1.6]))
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    raw = [wilcoxon(scores[i], scores[j]).pvalue for i, j in pairs]
    corrected = multipletests(raw, method="holm")[1]
    found = wilcoxon_holm(scores)
    assert [found.loc[i, j] for i, j in pairs] == pytest.approx(corrected)


def test_holm_by_hand():
    # Sorted: .005 × 4, .01 × 3, then .03 × 2 and .04 × 1, which must not fall below it.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.zeros(0)).tolist() == []


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_holm_against_statsmodels(count: int):
    p_values = np.random.default_rng(count).integers(0, 40, count) / 400  # some of them tie
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-12)


def test_win_rates_by_hand():
    scores = pd.DataFrame({"a": [3.0, 1.0], "b": [2.0, 1.0], "c": [1.0, 0.0]})
    # First block: a beats both, b one. Second: a and b tie and beat c.
    assert win_rates(scores).to_dict() == {"a": 3.5 / 4, "b": 2.5 / 4, "c": 0}
    wins = pairwise_wins(scores)
    assert wins.loc["a", "b"] == 0.75
    assert wins.loc["b", "a"] == 0.25
    assert wins.loc["c", "a"] == 0
    assert np.isnan(wins.loc["a", "a"])


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.integers(0, 3).map(float)))
def test_wins_counted_one_by_one(values: np.ndarray):
    scores, count = pd.DataFrame(values), values.shape[1]
    for i, rate in win_rates(scores).items():
        others = [j for j in range(count) if j != i]
        won = [(row[i] > row[j]) + (row[i] == row[j]) / 2 for row in values for j in others]
        assert rate == pytest.approx(np.mean(won))
        assert pairwise_wins(scores).loc[i].mean() == pytest.approx(np.mean(won))
    assert win_rates(scores).mean() == pytest.approx(0.5)


def apart(*levels: float, blocks: int = 30, noise: float = 1.0, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(scale=noise, size=(blocks, len(levels))) + levels
    return pd.DataFrame(values, columns=[f"c{i}" for i in range(len(levels))])


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
def test_statistical_ranks(test):
    scores = apart(0.0, 9.0, 9.1, 0.1, 30.0)
    found = statistical_ranks(scores, test=test)
    assert found.iloc[0] == 1
    assert found.index[0] == "c4"
    assert found[["c0", "c3"]].nunique() == 1
    assert found[["c1", "c2"]].nunique() == 1
    if test == "wilcoxon":
        assert found.to_dict() == {"c4": 1, "c1": 2, "c2": 2, "c0": 3, "c3": 3}


def test_statistical_ranks_compare_with_the_best_of_the_rank():
    """Of a chain of small steps, what differs from the best of a rank opens the next, though its neighbour does not."""
    scores = pd.DataFrame([[4.0, 3.0, 2.0, 1.0]] * 2, columns=list("abcd"))
    p_values = pd.DataFrame(1.0, list("abcd"), list("abcd"))
    p_values.loc["a", ["c", "d"]] = 0.01
    with mock.patch.object(comparison, "wilcoxon_holm", return_value=p_values):
        assert statistical_ranks(scores).to_dict() == {"a": 1, "b": 1, "c": 2, "d": 2}
        assert statistical_ranks(scores, alpha=0.005).tolist() == [1] * 4


def test_configurations_alike_share_the_first_rank():
    same = pd.DataFrame(np.ones((6, 4)))
    assert statistical_ranks(same).tolist() == [1] * 4
    assert statistical_ranks(same, test="nemenyi").tolist() == [1] * 4
    assert (friedman(same).statistic, friedman(same).p_value) == (0, 1)


def test_five_blocks_cannot_be_significant():
    assert statistical_ranks(apart(0.0, 100.0, blocks=5)).tolist() == [1, 1]
    assert wilcoxon_holm(apart(0.0, 100.0, blocks=5)).loc["c0", "c1"] == pytest.approx(1 / 16)


def test_table():
    scores = apart(0.0, 1.0, 3.0)
    table = comparison_table(scores, times=300)
    assert table.index.tolist() == ["c2", "c1", "c0"]
    assert table["average_rank"].tolist() == average_ranks(scores).tolist()
    assert table["win_rate"].to_dict() == pytest.approx(win_rates(scores).to_dict())
    assert table["statistical_rank"].tolist() == statistical_ranks(scores).tolist()
    for name in ("average_rank", "win_rate"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    assert table.loc["c2", ["mean", "std", "median"]].tolist() == pytest.approx(
        [scores["c2"].mean(), scores["c2"].std(), scores["c2"].median()]
    )
    # The rank of the middle one is a mean over 30 blocks: its interval is that of a mean.
    error = block_ranks(scores)["c1"].std(ddof=0) / np.sqrt(30)
    width = table.loc["c1", "average_rank_high"] - table.loc["c1", "average_rank_low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.25)
    pd.testing.assert_frame_equal(table, comparison_table(scores, times=300))


def test_the_order_of_columns_does_not_matter():
    scores = apart(0.0, 1.0, 3.0)
    turned = comparison_table(scores[["c1", "c2", "c0"]], times=50)
    pd.testing.assert_frame_equal(turned, comparison_table(scores, times=50))


def test_refusals():
    holed = pd.DataFrame({"a": [1.0, np.nan], "b": [1.0, 2.0]}, index=pd.Index([("sst2", 0), ("rte", 1)]))
    for function in (
        block_ranks,
        win_rates,
        pairwise_wins,
        nemenyi,
        wilcoxon_holm,
        statistical_ranks,
        comparison_table,
    ):
        with pytest.raises(ValueError, match=r"1 of 4 scores are missing, among them of block \('rte', 1\)"):
            function(holed)
        with pytest.raises(ValueError, match="two configurations at least, not 1 and 1"):
            function(pd.DataFrame({"a": [1.0]}))
    with pytest.raises(ValueError, match="three configurations at least, not 2"):
        friedman(DEPRESSION)
