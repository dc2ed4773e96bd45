import pandas as pd
import pytest

from undertow.study.frames import Frames
from undertow.study.ranks import aggregation_gains, aggregations, layer_ranks, places, proxies

from .small_study import study, tables

VOTE = "vote k=0.3"


def test_layer_ranks_under_the_mean():
    found = layer_ranks(study(), times=50).set_index("group")
    assert list(found.index) == ["att1", "embedding", "head"]
    assert list(found["average_rank"]) == [1, 2, 3]
    assert list(found["win_rate"]) == [1, 0.5, 0]
    # Four blocks cannot tell groups apart: the least p of Wilcoxon's test is 2/16.
    assert list(found["statistical_rank"]) == [1, 1, 1]
    assert found.loc["att1", "mean"] == pytest.approx(0.915)
    assert found.loc["att1", "mean_low"] < 0.915 < found.loc["att1", "mean_high"]
    assert set(found["outcome"]) == {"accuracy"}


def test_layer_ranks_of_another_aggregation_without_retraining():
    found = layer_ranks(study(retrained=False), VOTE, times=50)
    assert list(found["group"]) == ["head", "att1", "embedding"]
    assert set(found["outcome"]) == {"ndr30"}
    assert found["mean"].iloc[0] == pytest.approx(0.765)


def test_what_was_not_retrained_is_judged_by_the_noise_found():
    frames = tables(retrained=True)
    results = frames["results"]
    acted = (results["kind"] == "influence") & (results["layers"] == "head") & (results["aggregation"] == "mean")
    few = Frames.of(**{**frames, "results": results.assign(accuracy=results["accuracy"].where(acted))})
    assert list(layer_ranks(few, times=10)["group"]) == ["att1", "embedding", "head"]
    assert set(layer_ranks(few, times=10)["outcome"]) == {"ndr30"}
    assert set(aggregation_gains(few, times=10)["outcome"]) == {"ndr30"}
    assert set(places(few)["outcome"]) == {"ndr30"}
    assert proxies(few, times=10).empty


def test_one_group_is_no_contrast():
    frames = tables(retrained=True)
    results = frames["results"]
    alone = results[results["layers"] == "head"]
    assert layer_ranks(Frames.of(**{**frames, "results": alone}), times=10).empty


def test_a_single_block_has_no_interval():
    frames = {name: frame[frame["seed"] == 0] for name, frame in tables(retrained=True).items()}
    ranked = layer_ranks(Frames.of(**frames), times=10)
    assert ranked["win_rate"].tolist() == [1, 0.5, 0]
    assert ranked[["average_rank_low", "win_rate_high", "mean_low"]].isna().all(axis=None)
    assert proxies(Frames.of(**frames), times=10)[["within_low", "overall_high"]].isna().all(axis=None)


def test_what_was_left_out_is_counted():
    frames = tables(retrained=True)
    results = frames["results"]
    lost = results[~((results["seed"] == 3) & (results["layers"] == "head"))]
    found = layer_ranks(Frames.of(**{**frames, "results": lost}), times=10)
    assert set(found["blocks"]) == {3}
    assert set(found["blocks_left_out"]) == {1}


def test_gains_over_the_mean():
    found = aggregation_gains(study(), times=50).set_index("over")
    assert found.loc["best", ["group", "group_of_mean"]].tolist() == ["head", "att1"]
    assert found.loc["best", "difference"] == pytest.approx(0.05)  # 0.75 under vote on the head, 0.7 on att1
    assert found.loc["mean", "difference"] == pytest.approx(0.25 / 3)
    assert list(found["win_rate"]) == [1, 1]
    assert found["p"].tolist() == pytest.approx([0.125, 0.125])  # four of four positive: 2/16


def test_a_lost_block_lowers_the_gain():
    frames = tables(retrained=True)
    results = frames["results"].copy()
    results.loc[(results["aggregation"] == "vote") & (results["seed"] == 3), "accuracy"] -= 1
    found = aggregation_gains(Frames.of(**{**frames, "results": results}), times=50).set_index("over")
    assert found.loc["best", "win_rate"] == 0.75
    assert found.loc["best", "difference"] == pytest.approx((3 * 0.05 - 0.95) / 4)


def test_p_is_corrected_over_the_aggregations():
    frames = tables(retrained=True)
    results = frames["results"]
    rank = results[results["aggregation"] == "vote"].assign(aggregation="rank", k=float("nan"))
    found = aggregation_gains(Frames.of(**{**frames, "results": pd.concat([results, rank])}), times=10)
    assert found["p"].tolist() == pytest.approx([0.25] * 4)


def test_place_of_the_head():
    found = places(study()).set_index("aggregation")
    assert found["place"].to_dict() == {"mean": 3, VOTE: 1}
    assert set(found["of"]) == {3}
    assert places(study(), "cosine").empty


def test_proxies():
    found = proxies(study(), times=50).set_index(["aggregation", "proxy"])
    assert found.loc[("mean", "ndr30"), "within"] == pytest.approx(1)
    assert found.loc[("mean", "cancellation"), "within"] == pytest.approx(1)
    # Places 1 2 3 of accuracy against 2 3 1 of cancellation: 1 - 6 · 6 / 24.
    assert found.loc[(VOTE, "cancellation"), "within"] == pytest.approx(-0.5)
    assert proxies(study(retrained=False), times=10).empty
    frames = tables(retrained=True)
    bare = Frames.of(**{**frames, "layers": frames["layers"].head(0).astype(object)})
    assert set(proxies(bare, times=10)["proxy"]) == {"ndr30", "auc_ndr"}


def test_mean_comes_first():
    frames = tables(retrained=True)
    turned = Frames.of(**{**frames, "results": frames["results"].iloc[::-1]})
    assert aggregations(turned) == ["mean", VOTE]
