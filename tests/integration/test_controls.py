"""An audit with control rows, from the command line to what is read back."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from undertow import audit, open_influence
from undertow.influence.store import ANCHOR, CANARY, ROW
from undertow.pipeline.decide import group_table
from undertow.pipeline.settings import settings_from

from . import tiny
from .command import undertow
from .conftest import QUICK, run
from .test_processes import SCRIPT, launched

ROWS, CANARIES, TRUSTED = 520, 50, 180
ANCHORS = TRUSTED // 3


@pytest.fixture(scope="module")
def files(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    # Few other words, so that a few epochs teach what decides.
    train, validation = (
        tiny.rows(rows, seed=seed, classes=("praise", "blame"), words=(0, 1))
        for rows, seed in ((ROWS, 21), (TRUSTED, 22))
    )
    # The first annotator has all the wrong labels that are not planted: every third label of theirs.
    train["annotator"] = ["careless" if i % 4 == 0 else f"careful {i % 2}" for i in range(ROWS)]
    other = {"praise": "blame", "blame": "praise"}
    wrong = np.arange(ROWS) % 8 == 0
    train["label"] = [other[label] if bad else label for label, bad in zip(train["label"], wrong, strict=True)]
    tiny.write(train, folder / "train.csv")
    tiny.write(validation, folder / "validation.csv")
    names = ("--model", place("bert"), "--train", folder / "train.csv", "--validation", folder / "validation.csv")
    return (*names, *QUICK, "--epochs", 4, "--learning-rate", 0.03)


@pytest.fixture(scope="module")
def made(files, tmp_path_factory):
    more = ("--estimator", "cosine,tracin", "--baseline", "aum,knn", "--retrain")
    return run(tmp_path_factory.mktemp("runs") / "controlled", *files, *more)


def manifest(folder):
    return json.loads((folder / "run.json").read_text())


def truly_wrong():
    return np.arange(ROWS) % 8 == 0


def test_every_row_of_the_user_has_a_harm_and_a_probability(made):
    table = pd.read_parquet(made.folder / "harm.parquet")
    assert table["row"].tolist() == list(range(ROWS))
    assert table["harm"].between(0, 1).all()
    assert table["wrong"].between(0, 1).all()
    assert table["p_value"].between(0, 1, inclusive="right").all()
    ordered = table.sort_values("rank")
    assert (np.diff(ordered["p_value"]) >= -1e-12).all()
    assert table["probe"].between(0, 1).all()
    assert table["suggested_probability"].notna().equals(table["flagged"])
    flagged = table[table["flagged"]]
    assert (flagged["suggested_probability"] <= flagged["wrong"] + 1e-9).all()
    canaries = table[table["canary_label"].notna()]
    assert len(canaries) == CANARIES
    assert (canaries["canary_label"] != canaries["label"]).all()


def test_wrong_labels_are_found_and_promises_kept(made):
    table, result = pd.read_parquet(made.folder / "harm.parquet"), manifest(made.folder)["results"]["controls"]
    bad, flagged = truly_wrong(), table["flagged"].to_numpy(bool)
    assert result["anchors"] == ANCHORS
    assert result["trusted"] == TRUSTED
    assert 0 < result["share_least"] <= bad.mean()
    assert result["share_low"] - 0.03 <= bad.mean() <= result["share_high"] + 0.05
    assert flagged.sum() == result["flagged"] > 40
    assert bad[flagged].mean() >= result["sure_precision"]
    assert table["removed"].sum() == result["removed"] <= result["flagged"]
    assert bad[flagged].sum() > 0.8 * bad.sum()


def test_the_careless_annotator_is_named(made):
    sources = manifest(made.folder)["results"]["sources"]
    assert sources[0]["name"] == "careless"
    assert sources[0]["low"] > 0.3
    assert all(source["rate"] < 0.1 for source in sources[1:])
    assert "The worst source is 'careless'" in made.outcome.said
    assert "Sources of the labels" in (made.folder / "report.html").read_text()
    compared = group_table(made.folder, "annotator").set_index("group")
    for source in sources:
        found = compared.loc[source["name"], ["share", "low", "high"]].tolist()
        assert found == pytest.approx([source[name] for name in ("rate", "low", "high")])


def test_remedies_are_compared_and_the_winner_is_carried_out(made):
    told = manifest(made.folder)
    results = told["results"]
    names = [arm["name"] for arm in results["arms"]]
    assert names == ["as given", "dropped", "relabelled", "down-weighted", "random removal"]
    assert [f"retrain: {name}" for name in names] == [s for s in told["stages"] if s.startswith("retrain")]
    cleaned = pd.read_json(made.folder / "cleaned.jsonl", lines=True)
    if results["remedy"] == "dropped":
        assert len(cleaned) == ROWS - results["removed"]
    else:
        assert len(cleaned) == ROWS
    for arm in results["arms"][1:]:
        assert arm["difference_low"] <= arm["difference"] <= arm["difference_high"]


def test_a_source_can_be_acted_on_alone(made, tmp_path):
    outcome = undertow("decide", made.folder, "--source", "careless", "--above", 0, "--out", tmp_path / "without.csv")
    assert outcome.code == 0, outcome.err
    kept = pd.read_csv(tmp_path / "without.csv")
    assert "careless" not in set(kept["annotator"])
    assert len(kept) == ROWS - ROWS // 4
    some = undertow("decide", made.folder, "--source", "careless", "--action", "review", "--out", tmp_path / "some.csv")
    assert some.code == 0, some.err
    marked = pd.read_csv(tmp_path / "some.csv")
    assert set(marked.loc[marked["undertow_action"] == "review", "annotator"]) == {"careless"}
    unknown = undertow("decide", made.folder, "--source", "nobody", "--out", tmp_path / "none.csv")
    assert "No row is of the source nobody" in unknown.complaint


def test_annotators_of_the_same_texts_are_compared(place, tmp_path):
    rows = tiny.rows(40, seed=5)
    three = pd.concat([rows.assign(annotator=name) for name in ("a", "b", "c")], ignore_index=True)
    wrong = (three["annotator"] == "c") & (np.arange(120) % 3 == 0)
    three.loc[wrong, "label"] = [{"praise": "blame"}.get(label, "praise") for label in three.loc[wrong, "label"]]
    tiny.write(three, tmp_path / "three.csv")
    files = ("--model", place("bert"), "--train", tmp_path / "three.csv", "--validation", place("validation.jsonl"))
    found = run(tmp_path / "run", *files, *QUICK, "--baseline", "dawid-skene")
    harm = pd.read_parquet(found.folder / "harm.parquet")["baseline_dawid-skene"]
    assert harm[wrong].min() > harm[~wrong].max()
    alone = undertow(
        "audit", *files, *QUICK, "--source-column", "none", "--baseline", "dawid-skene", "--out", tmp_path / "x"
    )
    assert "no column names who labelled a row" in alone.complaint


def test_flagged_rows_name_queries_against_them(made):
    table = pd.read_parquet(made.folder / "harm.parquet")
    queries = set(open_influence(made.folder / "influence.zarr")["query"].values.tolist())
    named = table.loc[table["flagged"], "against"]
    assert {q for some in named for q in some} <= queries
    assert table.loc[~table["flagged"], "against"].isna().all()


def test_scores_and_cuts_are_kept(made):
    choices, cuts = (pd.read_parquet(made.folder / f"{n}.parquet") for n in ("choices", "cuts"))
    result = manifest(made.folder)["results"]["controls"]
    assert choices["combined"].is_monotonic_decreasing
    assert {"stack", "probe", "loss", "aum", "knn", "cosine, all", "tracin, head"} <= set(choices["name"])
    assert choices["used"].sum() == 1
    assert len(cuts) == ROWS + 1
    assert cuts["precision"][result["flagged"]] == pytest.approx(result["precision"])
    assert (cuts["sure_precision"] <= cuts["precision"] + 1e-9).all()


def test_the_stages_are_measured_and_said(made):
    told = manifest(made.folder)
    assert list(told["stages"])[:4] == ["probes", "fine-tune", "influence", "controls"]
    assert told["stages"]["controls"]["outputs"] == {"canaries": CANARIES, "anchors": ANCHORS}
    assert "of the labels are wrong (95% sure)" in made.outcome.said
    assert "Look through" in made.outcome.said
    page = (made.folder / "report.html").read_text()
    assert '<section id="controls"' in page
    assert "probes and model together" in page
    assert "cosine, the loss, and probes before fine-tuning" in page


def test_control_rows_stand_behind_the_users_rows_in_the_tensor_alone(made):
    tensor = open_influence(made.folder / "influence.zarr")
    counts = np.bincount(tensor["control"].values, minlength=3)
    assert counts[[ROW, CANARY, ANCHOR]].tolist() == [ROWS, CANARIES, ANCHORS]
    assert (np.diff(tensor["control"].values) >= 0).all()
    for command in (("score",), ("layers",), ("compare",)):
        outcome = undertow(*command, made.folder)
        assert outcome.code == 0, outcome.err
    scored = next((made.folder / "scores").glob("*.parquet"))
    assert len(pd.read_parquet(scored)) == ROWS


def test_the_same_command_finds_it_finished(made):
    again = undertow("audit", *made.arguments, "--out", made.folder)
    assert again.code == 0, again.err
    assert "is finished" in again.err


@pytest.fixture
def interrupted(made, tmp_path):
    """What a kill after the influence stage leaves."""
    folder = tmp_path / "again"
    shutil.copytree(made.folder, folder)
    told = manifest(folder)
    told["stages"] = {name: told["stages"][name] for name in ("probes", "fine-tune", "influence")}
    told.pop("results")
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def test_an_interrupted_audit_goes_on(made, interrupted):
    """The same canaries, the same harm."""
    outcome = undertow("audit", *made.arguments, "--out", interrupted)
    assert outcome.code == 0, outcome.err
    tables = [pd.read_parquet(f / "harm.parquet") for f in (interrupted, made.folder)]
    pd.testing.assert_frame_equal(*tables)


def test_probes_that_cannot_be_read_are_said(made, interrupted):
    (interrupted / "probes.npz").write_bytes(b"nothing")
    outcome = undertow("audit", *made.arguments, "--out", interrupted)
    assert outcome.code == 2
    assert "holds the probes' predictions, cannot be read" in outcome.complaint


@pytest.mark.parametrize(
    "choice", [("--aggregate", "rank"), ("--layers", "all"), ("--k", 0.3), ("--only", "all"), ("--weigh", "equal")]
)
def test_a_choice_that_equals_the_default_is_a_choice(choice):
    name, value = choice[0].removeprefix("--"), choice[1]
    assert settings_from({name: (value,) if name == "only" else value}).chosen
    assert not settings_from({"estimators": ("datainf",), "epochs": 2}).chosen
    assert not settings_from({"correct_only": False}).chosen


def test_the_users_choice_decides(files, tmp_path):
    chosen = run(tmp_path / "chosen", *files, "--aggregate", "rank", "--cut", 0.1)
    told = manifest(chosen.folder)["results"]
    assert told["controls"]["harm"] == "as asked"
    assert told["flagged"] == told["removed"] == round(0.1 * ROWS)
    table = pd.read_parquet(chosen.folder / "harm.parquet")
    scored = undertow("score", chosen.folder, "--aggregate", "rank")
    assert scored.code == 0, scored.err
    own = pd.read_parquet(next((chosen.folder / "scores").glob("*.parquet")))
    spared = table["canary_label"].isna()  # a canary's own row was trained on another label
    order = own.loc[spared, "harm"].rank().corr(table.loc[spared, "harm"].rank())
    assert order > 0.999


def test_rates_of_false_discoveries(files, made, tmp_path):
    strict = run(tmp_path / "strict", *files, "--fdr", 0.1, "--baseline", "aum,knn")
    told, usual = manifest(strict.folder)["results"], manifest(made.folder)["results"]
    assert told["flagged"] == told["removed"] <= usual["flagged"]
    assert settings_from({"target_precision": 0.9}).rates == pytest.approx((0.1, 0.1))


def test_without_calibration_there_are_no_controls(files, tmp_path):
    plain = run(tmp_path / "plain", *files, "--no-calibrate")
    told = manifest(plain.folder)
    assert told["results"]["controls"] is None
    assert told["results"]["flagged"] == round(0.3 * ROWS)
    assert open_influence(plain.folder / "influence.zarr").sizes["sample"] == ROWS


def test_too_few_rows_are_said(plain):
    assert "cannot spare 50 canaries" in plain.outcome.said


def test_a_model_that_is_not_trained_here_is_judged_by_probes(place, files, tmp_path):
    own = run(tmp_path / "own", "--model", place("classifier"), *files[2:])
    told = manifest(own.folder)["results"]["controls"]
    assert (told["harm"], told["anchors"], told["canaries"]) == ("probe", 0, 0)
    assert "No trusted row was trained on" in own.outcome.said


@pytest.mark.parametrize("keep", ["groups", "scores"])
def test_scores_are_those_of_the_tensor(files, made, tmp_path, keep):
    kept = run(tmp_path / "kept", *files, "--baseline", "aum,knn", "--estimator", "cosine,tracin", "--keep", keep)
    table, whole = (pd.read_parquet(folder / "harm.parquet") for folder in (kept.folder, made.folder))
    np.testing.assert_allclose(table["harm"], whole["harm"], atol=0.01)
    assert not {"against", "stability"} & set(table.columns)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--canaries", 0.5), "--canaries 0.5"),
        (("--target-precision", 1.2), "--target-precision 1.2"),
        (("--fdr", 0.2, "--target-precision", 0.5), "say the same in two ways"),
        (("--fdr", 0), "--fdr 0"),
        (("--anchors", 1.5), "--anchors 1.5"),
        (("--retrain", "pray"), "--retrain pray is not known"),
    ],
)
def test_options_out_of_range_are_refused(refused_early, more, said):
    assert said in refused_early(*more)


def test_in_memory(place, files):
    train, validation = (pd.read_csv(files[i]) for i in (3, 5))
    options = {"epochs": 4, "batch_size": 16, "learning_rate": 0.03, "plant": 0.2, "progress": False}
    found = audit(str(place("bert")), train, validation, **options)
    assert found.results.controls is not None
    assert found.influence.sizes["sample"] == ROWS == len(found.harm)
    assert {"planted", "original_label"} <= set(found.harm.columns)


def test_rows_that_were_labelled_again_are_trusted_and_say_how_much_is_wrong(files, tmp_path):
    sample, larger = tmp_path / "sample.csv", tmp_path / "larger.csv"
    train = pd.read_csv(files[3])
    train = pd.concat([train, train[:200]], ignore_index=True)
    wrong = np.concatenate([truly_wrong(), truly_wrong()[:200]])
    train.to_csv(larger, index=False)
    drawn = undertow("sample", larger, "--rows", 200, "--out", sample)
    assert drawn.code == 0, drawn.err
    assert "Next: fill in the column 'label'" in drawn.out
    careful = pd.read_csv(sample)
    assert careful["label"].isna().all()
    other = {"praise": "blame", "blame": "praise"}
    old = train["label"][careful["undertow_row"]].tolist()
    bad = wrong[careful["undertow_row"]]
    careful["label"] = [other[label] if is_bad else label for label, is_bad in zip(old, bad, strict=True)]
    careful.to_csv(sample, index=False)
    found = run(tmp_path / "again", *files[:3], larger, files[4], sample, *files[6:])
    results = manifest(found.folder)["results"]
    value, low, high = results["labelled_again"]
    assert value == pytest.approx(bad.mean())
    assert low < wrong.mean() < high
    assert results["controls"]["effective"] == pytest.approx((~bad).sum())  # good rows of the sample, without weights
    assert "labelled again with care" in found.outcome.said
    harm = pd.read_parquet(found.folder / "harm.parquet")
    assert set(harm["row"]) == set(range(len(train))) - set(careful["undertow_row"])
    decided = undertow("decide", found.folder, "--action", "review", "--out", tmp_path / "decided.csv")
    assert decided.code == 0, decided.err
    again = undertow("sample", larger, "--out", sample)
    assert "is not overwritten" in again.complaint


@pytest.mark.timeout(300)
def test_several_processes_agree_on_the_controls(files, tmp_path):
    more = ("--baseline", "aum")
    one = run(tmp_path / "one", *files, *more)
    done = launched(SCRIPT, *files, *more, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    two, single = (pd.read_parquet(folder / "harm.parquet") for folder in (tmp_path / "two", one.folder))
    pd.testing.assert_frame_equal(two.drop(columns="against"), single.drop(columns="against"), rtol=1e-4, atol=1e-3)
