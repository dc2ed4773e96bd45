import numpy as np
import pandas as pd
import pytest

from undertow.metrics.intervals import bootstrap
from undertow.study import measures
from undertow.study.frames import Frames, mean_interval

from .small_study import study, tables


def test_cancellation_and_its_correlation():
    found = measures.cancellation(study(), times=50).set_index("group")
    assert found.loc["embedding", "mean"] == pytest.approx(3.5)  # 2, 3, 4, 5
    assert found.loc["embedding", "std"] == pytest.approx(np.sqrt(5 / 3))
    assert found["rho"].tolist() == pytest.approx([1, 1, 1])  # both grow with the seed
    assert set(found["outcome"]) == {"accuracy"}


def test_infinite_cancellation_is_left_out_and_counted():
    frames = tables(retrained=True)
    layers = frames["layers"].copy()
    layers.loc[(layers["layers"] == "head") & (layers["seed"] == 0), "cancellation"] = np.inf
    found = measures.cancellation(Frames.of(**{**frames, "layers": layers}), times=10).set_index("group")
    assert found.loc["head", ["cells", "infinite", "mean"]].tolist() == [3, 1, 3]  # 2, 3, 4


def test_noise_by_group():
    found = measures.ndr_by_group(study(), times=50).set_index("layers")
    assert found.loc["att1", ["ndr10", "ndr20", "ndr30"]].tolist() == pytest.approx([0.415, 0.615, 0.715])
    assert found.loc["att1", "ndr30_low"] >= 0.7
    assert found.loc["att1", "ndr30_high"] <= 0.73
    assert set(found["cells"]) == {4}


def test_noise_by_k_is_averaged_over_groups_within_the_cell():
    frames = tables(retrained=True)
    results = frames["results"]
    other = results[results["aggregation"] == "vote"].assign(k=0.1, ndr30=0.4)
    found = measures.ndr_by_k(Frames.of(**{**frames, "results": pd.concat([results, other])}), times=50)
    assert found.set_index("k")["ndr30"].to_dict() == pytest.approx({0.3: 2.05 / 3 + 0.015, 0.1: 0.4})
    assert set(found["cells"]) == {4}


def test_the_best_stand_beside_every_baseline():
    found = measures.ndr_best(study(), best=1, times=50)
    assert found[["kind", "estimator", "layers", "how"]].to_numpy().tolist() == [
        ["influence", "tracin", "head", "vote k=0.3"],
        ["baseline", "loss", "", ""],
    ]
    assert found["ndr30"].tolist() == pytest.approx([0.765, 0.55])


def test_cells_without_noise_have_no_part_in_it():
    frames = tables(retrained=True)
    bare = frames["results"].assign(noise="none", rate=0.0, ndr10=np.nan, ndr20=np.nan, ndr30=np.nan, auc_ndr=np.nan)
    found = measures.ndr_best(Frames.of(**{**frames, "results": pd.concat([frames["results"], bare])}), times=10)
    assert set(found["noise"]) == {"uniform"}
    assert measures.ndr_best(Frames.of(**{**frames, "results": bare}), times=10).empty


def test_noise_ranks_and_agreement():
    ranks = measures.noise_ranks(study(), times=10)
    assert ranks["difference"].tolist() == pytest.approx([-0.2] * 3)
    pairs = measures.group_agreement(study(), times=10)
    assert pairs[["first", "second"]].to_numpy().tolist() == [
        ["embedding", "att1"],
        ["embedding", "head"],
        ["att1", "head"],
    ]
    assert pairs["spearman_noisy"].tolist() == pytest.approx([0.2] * 3)


def test_filtering_against_the_controls():
    found = measures.filtering(study(), best=1, times=50).set_index("estimator")
    assert list(found.index) == ["noisy", "oracle", "random", "tracin"]
    assert found["gain"].tolist() == pytest.approx([0, 0.25, -0.05, 0.265])
    assert found.loc["tracin", ["layers", "how"]].tolist() == ["head", "vote k=0.3"]
    assert measures.filtering(study(retrained=False), times=10).empty


def test_random_of_another_cut_is_no_control():
    frames = tables(retrained=True)
    results = frames["results"]
    other = results[results["estimator"] == "random"].assign(cut=0.1, accuracy=0.0)
    found = measures.filtering(Frames.of(**{**frames, "results": pd.concat([results, other])}), times=10)
    assert found.set_index("estimator").loc["random", "accuracy"] == pytest.approx(0.65)


def test_costs():
    found = measures.costs(study(), times=10).set_index("stage")
    assert found.loc["fine-tune", ["cells", "seconds", "total_seconds", "peak_memory_mb"]].tolist() == [
        4,
        11.5,
        46,
        400,
    ]
    assert found.loc["influence: tracin", ["cells", "seconds", "total_seconds"]].tolist() == [4, 2.5, 10]
    assert np.isnan(found.loc["influence: tracin", "peak_memory_mb"])


def test_the_interval_of_a_mean_is_that_of_the_bootstrap():
    values = np.random.default_rng(0).normal(size=7)
    found = mean_interval(pd.Series([*values, np.nan]), times=40)
    wanted = bootstrap(lambda rows: float(values[rows].mean()), 7, times=40)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))


def test_a_single_cell_has_no_interval():
    frames = {name: frame[frame["seed"] == 0] for name, frame in tables(retrained=True).items()}
    found = measures.costs(Frames.of(**frames), times=10)
    assert found["seconds"].tolist() == [10, 2, 1]
    assert found[["seconds_low", "seconds_high"]].isna().all(axis=None)
