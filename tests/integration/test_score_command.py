"""``undertow score``: a finished run aggregated anew, against the definitions on the stored tensor."""

import shutil

import numpy as np
import pandas as pd
import pytest

import undertow as library
from undertow.aggregation.cut import flag, harm_ranks
from undertow.aggregation.in_memory import aggregate
from undertow.models.groups import select_modules

from .command import contents, undertow


@pytest.fixture
def finished(full, tmp_path):
    return shutil.copytree(full.folder, tmp_path / "run")


def by_hand(folder, estimator, layers, how, **options):
    influence = library.open_influence(folder / "influence.zarr")
    keys = library.Scorer(influence).keys
    values = influence["influence"].sel(estimator=estimator).values[select_modules(keys, layers)]
    return -aggregate(values, how, **options)


def test_the_table_is_what_the_definition_says(finished):
    outcome = undertow(
        "score", finished, "--estimator", "tracin", "--layers", "att1", "--aggregate", "vote", "--k", "0.2"
    )
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(finished / "scores" / "tracin_att1_vote_k0.2.parquet")
    harm = by_hand(finished, "tracin", "att1", "vote", k=0.2)
    assert np.allclose(table["harm"], harm)
    ranks = harm_ranks(harm, seed=0)
    assert np.array_equal(table["rank"], ranks)
    assert np.array_equal(table["flagged"], flag(ranks, 0.3))
    assert "tracin, layers att1" in outcome.said
    assert "vote (k 0.2), queries: all: 18 of 60 rows are flagged." in outcome.said
    assert "of the 12 planted flips (random order: 30%)" in outcome.said


def test_the_run_is_left_as_it_was(finished):
    before = contents(finished)
    assert undertow("score", finished, "--aggregate", "mean").code == 0
    after = contents(finished)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} <= {"scores", "reductions"}


def test_several_at_once_and_a_page(finished):
    outcome = undertow("score", finished, "--aggregate", "mean,rank,vote", "--k", "0.2,5")
    assert outcome.code == 0, outcome.err
    names = {p.name for p in (finished / "scores").iterdir()}
    assert {f"tracin_all_{how}.parquet" for how in ("mean", "rank", "vote_k0.2", "vote_k5")} <= names
    page = (finished / "scores" / "tracin_all_mean.html").read_text()
    assert page.count("<svg") == 5  # the curves and four histograms
    assert "tracin_all_vote_k5" in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("how", ["mean", "standardised", "rank", "vote", "vote-all"])
def test_several_estimators_are_aggregated_together(how, finished):
    both = ("tracin", "datainf")
    assert undertow("score", finished, "--estimator", ",".join(both), "--layers", "att1", "--aggregate", how).code == 0
    table = pd.read_parquet(next((finished / "scores").glob("tracin,datainf_att1_*.parquet")))
    influence = library.open_influence(finished / "influence.zarr")
    modules = select_modules(library.Scorer(influence).keys, "att1")
    rows = np.concatenate([influence["influence"].sel(estimator=name).values[modules] for name in both])
    assert np.allclose(table["harm"], -aggregate(rows, how))


def test_no_page_where_none_is_wanted(finished):
    assert undertow("score", finished, "--no-figures").code == 0
    assert {p.suffix for p in (finished / "scores").iterdir()} == {".parquet"}


def test_stability(finished):
    outcome = undertow("score", finished, "--bootstrap", "50")
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(next((finished / "scores").glob("*bootstrap50.parquet")))
    assert (table["harm_low"] <= table["harm_high"]).all()
    assert table["flagged_share"].between(0, 1).all()
    assert table.loc[table["flagged"], "flagged_share"].mean() > table.loc[~table["flagged"], "flagged_share"].mean()
    assert "are flagged in 90% of the resamples or more" in outcome.said


def test_python_gives_the_same_table(finished):
    assert undertow("score", finished, "--aggregate", "median", "--only", "correct").code == 0
    found = library.score(finished, aggregate="median", only=("correct",), progress=False)
    written = pd.read_parquet(next((finished / "scores").glob("*median*.parquet")))
    pd.testing.assert_frame_equal(found.reset_index(drop=True), written, check_dtype=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--aggregate", "mode"), "--aggregate mode is not known"),
        (("--k", "2.5"), "--k 2.5 is outside its range"),
        (("--k", "many"), "--k many is not a number"),
        (("--estimator", "exact"), "exact"),
        (("--estimator", "tracin,cosine", "--aggregate", "median"), "asks for several at once"),
        (("--estimator", "tracin,cosine", "--bootstrap", "20"), "asks for several at once"),
        (("--layers", "third"), "--layers third is not known"),
        (("--cut", "1.5"), "1.5"),
        (("--bootstrap", "1"), "--bootstrap 1"),
        (("--weigh", "loudly"), "--weigh loudly"),
        (("--only", "wrong"), "--only"),
        (("--memory", "0"), "--memory"),
        (("--trim", "0.5", "--aggregate", "trimmed"), "--trim 0.5"),
        (("--aggregate", "mean,rank", "--out", "t.parquet"), "--out names one file"),
    ],
)
def test_bad_options(options, expected, finished):
    before = contents(finished)
    outcome = undertow("score", finished, *options)
    assert outcome.code == 2
    assert expected in outcome.complaint
    assert contents(finished) == before


def test_no_run(tmp_path):
    outcome = undertow("score", tmp_path)
    assert outcome.code == 2
    assert str(tmp_path) in outcome.complaint


def test_a_table_of_something_else_is_not_overwritten(finished, tmp_path):
    mine = tmp_path / "mine.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(mine)
    before = mine.read_bytes()
    outcome = undertow("score", finished, "--out", mine)
    assert outcome.code == 2
    assert mine.name in outcome.complaint
    assert mine.read_bytes() == before
