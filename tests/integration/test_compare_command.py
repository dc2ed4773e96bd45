"""``undertow compare``: every choice is measured as the metrics say, and sorted."""

import shutil

import numpy as np
import pandas as pd
import pytest

from undertow.metrics.agreement import agreement
from undertow.metrics.intervals import bootstrap
from undertow.metrics.noise import noise_detection
from undertow.pipeline.compare import CompareOptions, compare_run
from undertow.pipeline.scorer import Scorer, Scoring

from .command import undertow
from .conftest import quick, run

CHOICES = ("--layers", "all,att1,0-1", "--aggregate", "rank,vote", "--k", "0.2,0.4", "--estimator", "cosine,tracin")


@pytest.fixture(scope="module")
def compared(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    shutil.copytree(full.folder, folder)
    outcome = undertow("compare", folder, *CHOICES)
    assert outcome.code == 0, outcome.err
    return folder, outcome, pd.read_parquet(folder / "compare.parquet")


def test_every_choice_is_there_once(compared):
    _, _, table = compared
    influence = table[table["kind"] == "influence"]
    assert len(influence) == 2 * 3 * 3  # estimators x layers x (rank, vote with two k)
    assert not influence.duplicated(["estimator", "layers", "aggregate", "k"]).any()
    assert set(influence["k"].dropna()) == {0.2, 0.4}
    assert table.loc[table["kind"] == "baseline", "estimator"].tolist() == ["loss"]
    assert table["auc"].is_monotonic_decreasing


def test_measures_are_those_of_the_harm(compared):
    folder, _, table = compared
    harm = pd.read_parquet(folder / "harm.parquet")
    planted = harm["planted"].to_numpy(bool)
    row = table.query("estimator == 'tracin' and layers == 'att1' and k == 0.4").iloc[0]
    found = Scorer.of_run(folder).scores([Scoring("tracin", "att1", "vote", 0.4)])[0].harm
    curve = noise_detection(found, planted)
    assert row[["ndr10", "ndr20", "ndr30", "auc"]].tolist() == pytest.approx(
        [curve.ndr(0.1), curve.ndr(0.2), curve.ndr(0.3), curve.auc]
    )

    def resampled(rows):
        return noise_detection(found[rows], planted[rows]).auc

    interval = bootstrap(resampled, len(found), strata=planted, times=200)
    assert (row["auc_low"], row["auc_high"]) == pytest.approx((interval.low, interval.high))
    loss = table.query("kind == 'baseline'").iloc[0]
    assert loss["auc"] == pytest.approx(noise_detection(harm["loss"].to_numpy(np.float64), planted).auc)
    with_loss = agreement({"harm": found, "loss": harm["loss"].to_numpy(np.float64)}).loc["harm", "loss"]
    assert row["agreement_loss"] == pytest.approx(with_loss)


def test_printed_and_drawn(compared):
    folder, outcome, _ = compared
    for words in ("AUC-NDR", "vote k=0.2", "loss", "95%", "compare.html"):
        assert words in outcome.said
    page = (folder / "compare.html").read_text()
    assert page.count("<svg") == 1 + 3
    few = undertow("compare", folder, *CHOICES, "--top", 2, "--resamples", 0)
    assert "16 more are in the table" in few.said
    assert pd.read_parquet(folder / "compare.parquet")["auc_low"].isna().all()


def test_agreement_where_no_truth_is_known(plain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(plain.folder, folder)
    found = compare_run(folder, CompareOptions(layers=("all", "att1"), aggregate=("rank", "mean")))
    table = found.table
    assert table["auc"].isna().all()
    assert found.planted is None
    influence = table.index[table["kind"] == "influence"]
    square = agreement({str(i): found.harms[i] for i in influence})
    for i in influence:
        assert table.loc[i, "agreement"] == pytest.approx(square.loc[str(i)].drop(str(i)).mean())
    assert table["agreement"].is_monotonic_decreasing
    outcome = undertow("compare", folder)
    assert outcome.code == 0, outcome.err
    assert "No noise was planted" in outcome.said
    assert "NDR" not in outcome.out


def test_baselines_of_the_run_stand_beside(place, tmp_path):
    made = run(tmp_path / "run", *quick(place), "--plant", 0.2, "--baseline", "margin,random", "--estimator", "tracin")
    table = compare_run(made.folder, CompareOptions(aggregate=("rank",), resamples=0)).table
    beside = table[table["kind"] == "baseline"].set_index("estimator")
    assert set(beside.index) == {"loss", "margin", "random"}
    harm = pd.read_parquet(made.folder / "harm.parquet")
    for name in ("margin", "random"):
        curve = noise_detection(harm[f"baseline_{name}"].to_numpy(), harm["planted"].to_numpy(bool))
        assert beside.loc[name, "auc"] == pytest.approx(curve.auc)


def test_a_tensor_that_was_not_kept_is_refused(place, tmp_path):
    made = run(tmp_path / "run", *quick(place), "--keep", "scores")
    for command in ("layers", "compare"):
        outcome = undertow(command, made.folder)
        assert outcome.code == 2
        assert "Audit again with --keep tensor" in outcome.complaint


def test_unknown_layers_are_refused(full):
    outcome = undertow("compare", full.folder, "--layers", "nonsense")
    assert outcome.code == 2
    assert "--layers nonsense is not known" in outcome.complaint


def test_choices_of_layers_are_joined_by_a_plus(full, tmp_path):
    folder = shutil.copytree(full.folder, tmp_path / "run")
    told = ("--layers", "att1+head,head", "--aggregate", "mean", "--weigh", "balanced", "--estimator", "cosine")
    assert undertow("compare", folder, *told, "--memory", "0.1").code == 0
    table = pd.read_parquet(folder / "compare.parquet").query("kind == 'influence'")
    assert set(table["layers"]) == {"att1+head", "head"}
    found = compare_run(folder, CompareOptions(("cosine",), ("att1+head",), ("mean",), weigh="balanced"))
    expected = Scorer.of_run(folder).scores([Scoring("cosine", "att1,head", "mean", weigh="balanced")])[0].harm
    assert np.allclose(found.harms[found.table["kind"] == "influence"], expected)


@pytest.mark.parametrize("options", [("--weigh", "loudly"), ("--weigh", "balanced", "--aggregate", "median")])
def test_weighing_is_checked(options, full):
    outcome = undertow("compare", full.folder, *options)
    assert outcome.code == 2
    assert f"--weigh {options[1]}" in outcome.complaint
