"""An audit with canaries, from the command line to what is read back."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from undertow import audit, load_samples, open_influence
from undertow.calibrate.share import Share
from undertow.calibrate.told import Told, read_by
from undertow.pipeline.calibration import _odds
from undertow.pipeline.canaries import plan_canaries
from undertow.pipeline.page import report_data
from undertow.pipeline.probe import Opinion, more_reliable
from undertow.pipeline.results import CalibrationResult, Results
from undertow.pipeline.settings import AuditSettings

from . import tiny
from .command import undertow
from .conftest import QUICK, run
from .test_processes import SCRIPT, launched

ROWS, CANARIES = 520, 50


@pytest.fixture(scope="module")
def files(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    # Few other words, so that a few epochs teach what decides.
    train, validation = (
        tiny.rows(rows, seed=seed, classes=("praise", "blame"), words=(0, 1)) for rows, seed in ((ROWS, 21), (120, 22))
    )
    tiny.write(train, folder / "train.csv")
    tiny.write(validation, folder / "validation.csv")
    names = ("--model", place("bert"), "--train", folder / "train.csv", "--validation", folder / "validation.csv")
    return (*names, *QUICK, "--epochs", 4, "--learning-rate", 0.03)


@pytest.fixture(scope="module")
def made(files, tmp_path_factory):
    more = ("--plant", 0.2, "--estimator", "cosine,tracin", "--baseline", "aum,knn")
    return run(tmp_path_factory.mktemp("runs") / "calibrated", *files, *more)


@pytest.fixture(scope="module")
def chosen(files, tmp_path_factory):
    """By an aggregation and with a cut that the user chose."""
    return run(tmp_path_factory.mktemp("runs") / "chosen", *files, "--plant", 0.2, "--cut", 0.1, "--aggregate", "vote")


def manifest(folder):
    return json.loads((folder / "run.json").read_text())


def test_every_row_of_the_user_has_a_harm_and_a_probability(made):
    table = pd.read_parquet(made.folder / "harm.parquet")
    assert len(table) == ROWS
    assert table["row"].tolist() == list(range(ROWS))
    assert table["harm"].between(0, 1).all()
    assert table["wrong"].between(0, 1).all()
    assert (table["wrong_low"] <= table["wrong"] + 1e-9).all()
    ordered = table.sort_values("rank")
    assert (np.diff(ordered["wrong"]) <= 1e-9).all()
    assert table["probe"].between(0, 1).all()
    assert table["suggested_probability"].notna().equals(table["flagged"])
    flagged = table[table["flagged"]]
    assert (flagged["suggested_probability"] <= flagged["wrong"] + 1e-9).all()
    canaries = table[table["canary_label"].notna()]
    assert len(canaries) == CANARIES
    assert (canaries["canary_label"] != canaries["label"]).all()


def test_noise_that_is_no_canary_is_found(made):
    table = pd.read_parquet(made.folder / "harm.parquet")
    result = manifest(made.folder)["results"]["calibration"]
    bad = table["planted"].to_numpy(bool)
    assert result["share_low"] <= bad.mean() <= result["share_high"]
    assert 0 < result["gathering"] < 1
    for gathering, told in ((0.9, True), (0.1, False), (None, False)):
        sentence = CalibrationResult(**{**result, "gathering": gathering}).sentence
        assert ("gather in texts that are hard to tell" in sentence) == told
    assert result["share"] == pytest.approx(0.2, abs=0.05)
    flagged, removed = (table[name].to_numpy(bool) for name in ("flagged", "removed"))
    assert flagged.sum() == result["suggested"] > 0
    assert removed.sum() == result["removed"] > 0
    assert np.array_equal(removed, flagged & (table["wrong"] > 0.5))
    assert table["wrong"][removed].mean() == pytest.approx(result["removed_precision"])
    assert bad[flagged].mean() > 0.7
    assert table["stability"].between(0, 1).all()
    assert table["stability"][flagged].mean() > table["stability"][~flagged].mean() + 0.3


def test_flagged_rows_name_queries_against_them(made):
    table = pd.read_parquet(made.folder / "harm.parquet")
    queries = set(open_influence(made.folder / "influence.zarr")["query"].values.tolist())
    named = table.loc[table["flagged"], "against"]
    assert (named.map(len) > 0).all()
    assert {q for some in named for q in some} <= queries
    assert table.loc[~table["flagged"], "against"].isna().all()


def test_choices_and_cuts_are_kept(made):
    choices, cuts = (pd.read_parquet(made.folder / f"{n}.parquet") for n in ("choices", "cuts"))
    result = manifest(made.folder)["results"]["calibration"]
    assert len(choices) == result["choices"] > 100
    assert choices["auroc"].is_monotonic_decreasing
    assert {"loss", "aum", "knn"} <= set(choices.loc[choices["kind"] == "baseline", "estimator"])
    assert result["way"] in ("average", "single", "learned")
    assert choices["kind"].eq("probe").sum() == 1
    assert set(result["weights"]) == {"average", "probe"}
    assert sum(result["weights"].values()) == pytest.approx(1)
    assert result["reader"] in ("the fine-tuned model", "probes of the model before fine-tuning")
    assert {e["name"] for e in result["entries"]} >= {"average", "single", "learned", "loss", "cosine, all, vote 30%"}
    assert len(cuts) == ROWS + 1
    chosen = cuts.iloc[result["suggested"]]
    assert chosen["precision"] == pytest.approx(result["precision"])
    wrong = pd.read_parquet(made.folder / "harm.parquet")["wrong"]
    assert result["suggested"] == (wrong > 0.5).sum()


def test_the_stage_is_measured_and_said(made):
    told = manifest(made.folder)
    assert list(told["stages"]) == ["fine-tune", "influence", "calibration", "outputs"]
    assert told["stages"]["calibration"]["outputs"] == {"canaries": CANARIES}
    assert "of the labels look wrong" in made.outcome.out
    assert "canaries told from the rest" in made.outcome.out
    page = (made.folder / "report.html").read_text()
    assert '<section id="calibration"' in page
    assert "fixed: cosine, all, vote 30%" in page
    assert "How many labels are wrong was asked of" in page


@pytest.mark.parametrize(("power", "said"), [(1.0, False), (0.996, False), (0.9, True)])
def test_rows_unlike_the_trusted_ones_are_said_where_it_shows(made, power, said):
    told = manifest(made.folder)
    results, harm = Results.model_validate(told["results"]), pd.read_parquet(made.folder / "harm.parquet")
    assert results.calibration is not None
    found = results.calibration.model_copy(update={"power": power})
    page = report_data(harm, results.model_copy(update={"calibration": found}), told, made.folder)
    assert page.calibration is not None
    assert any(f"(power {power:.2f}; 1 is as sure)" in remark for remark in page.calibration.remarks) == said


def test_the_summary_says_whose_score_the_audits_is(made, chosen):
    assert "calibrated, the audit's" in made.outcome.said
    assert "cosine, layers all" in made.outcome.said
    assert "cosine, the audit's" in chosen.outcome.said
    assert "cosine, layers all" not in chosen.outcome.said


def test_canaries_stand_behind_the_users_rows_in_the_tensor_alone(made):
    tensor = open_influence(made.folder / "influence.zarr")
    assert tensor.sizes["sample"] == ROWS + CANARIES
    assert (tensor["sample"].values[ROWS:] < 0).all()
    for command in (("score",), ("layers",), ("compare",)):
        outcome = undertow(*command, made.folder)
        assert outcome.code == 0, outcome.err
    scored = next((made.folder / "scores").glob("*.parquet"))
    assert len(pd.read_parquet(scored)) == ROWS


def test_the_same_command_finds_it_finished(made):
    again = undertow("audit", *made.arguments, "--out", made.folder)
    assert again.code == 0, again.err
    assert "is finished" in again.err


def test_goals_and_cuts(files, chosen, tmp_path):
    goal = run(tmp_path / "goal", *files, "--plant", 0.2, "--target-recall", 0.999)
    best = run(tmp_path / "best", *files, "--plant", 0.2)
    told, other = manifest(goal.folder)["results"], manifest(chosen.folder)["results"]
    assert told["calibration"]["recall"] >= 0.999
    assert pd.read_parquet(goal.folder / "cuts.parquet")["recall"][told["flagged"] - 1] < 0.999
    f1 = pd.read_parquet(best.folder / "cuts.parquet")["f1"]
    assert f1[manifest(best.folder)["results"]["flagged"]] == f1.max()
    assert other["flagged"] == other["removed"] == round(0.1 * ROWS)
    assert told["removed"] == told["flagged"] > manifest(best.folder)["results"]["removed"]
    assert other["calibration"]["way"] == "as asked"


def test_clean_data_is_left_alone(files, tmp_path):
    clean = run(tmp_path / "clean", *files, "--retrain")
    told = manifest(clean.folder)
    assert told["results"]["flagged"] <= 0.01 * ROWS
    assert "retrain: as given" in told["stages"]
    if not told["results"]["flagged"]:
        assert "Nothing is suggested to be flagged" in clean.outcome.out
        assert (clean.folder / "removed.jsonl").read_text() == ""


def test_without_calibration_all_is_as_before(files, tmp_path):
    plain = run(tmp_path / "plain", *files, "--no-calibrate")
    told = manifest(plain.folder)
    assert told["results"]["calibration"] is None
    assert told["results"]["flagged"] == round(0.3 * ROWS)
    assert open_influence(plain.folder / "influence.zarr").sizes["sample"] == ROWS


def test_too_few_rows_are_said(plain):
    assert "cannot spare 50 canaries" in " ".join(plain.outcome.out.split())


def test_a_model_that_is_not_trained_here_is_not_calibrated(place, files, tmp_path):
    outcome = run(tmp_path / "own", "--model", place("classifier"), *files[2:]).outcome
    assert "canaries have to be planted before training" in " ".join(outcome.out.split())


@pytest.mark.parametrize("keep", ["groups", "scores"])
def test_without_the_tensor_layers_are_chosen_alone(files, tmp_path, keep):
    kept = run(tmp_path / "kept", *files, "--plant", 0.2, "--keep", keep)
    table = pd.read_parquet(kept.folder / "harm.parquet")
    assert set(pd.read_parquet(kept.folder / "choices.parquet")["aggregate"]) == {"rank", ""}
    assert not {"against", "stability"} & set(table.columns)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--canaries", 0.5), "--canaries 0.5"),
        (("--target-precision", 1.2), "--target-precision 1.2"),
        (("--target-precision", 0.5, "--target-recall", 0.5), "contradict"),
    ],
)
def test_options_out_of_range_are_refused(refused_early, more, said):
    assert said in refused_early(*more)


def test_in_memory(place, files):
    train, validation = (pd.read_csv(files[i]) for i in (3, 5))
    options = {"epochs": 4, "batch_size": 16, "learning_rate": 0.03, "plant": 0.2, "progress": False}
    found = audit(str(place("bert")), train, validation, **options)
    assert found.results.calibration is not None
    assert found.influence.sizes["sample"] == ROWS == len(found.harm)
    assert len(found.cleaned) + len(found.removed) == ROWS


@pytest.mark.timeout(300)
def test_several_processes_agree_on_the_canaries(files, made, tmp_path):
    done = launched(SCRIPT, *made.arguments, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("canaries told from the rest") == 1
    two, one = (pd.read_parquet(folder / "harm.parquet") for folder in (tmp_path / "two", made.folder))
    pd.testing.assert_frame_equal(two.drop(columns="against"), one.drop(columns="against"), rtol=1e-4)


@pytest.fixture
def interrupted(made, tmp_path):
    """What a kill after the influence stage leaves."""
    folder = tmp_path / "again"
    shutil.copytree(made.folder, folder)
    told = manifest(folder)
    told["stages"] = {name: told["stages"][name] for name in ("fine-tune", "influence")}
    told.pop("results")
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def test_an_interrupted_calibration_goes_on(made, interrupted):
    """The same canaries, the same harm."""
    outcome = undertow("audit", *made.arguments, "--out", interrupted)
    assert outcome.code == 0, outcome.err
    tables = [pd.read_parquet(f / "harm.parquet") for f in (interrupted, made.folder)]
    pd.testing.assert_frame_equal(*tables)


def test_what_the_model_says_of_the_selection_rows_is_computed_where_fine_tuning_did_not_keep_it(made, interrupted):
    (interrupted / "selection.npy").unlink()
    outcome = undertow("audit", *made.arguments, "--out", interrupted)
    assert outcome.code == 0, outcome.err
    again, before = (pd.read_parquet(f / "harm.parquet") for f in (interrupted, made.folder))
    pd.testing.assert_frame_equal(again.drop(columns="against"), before.drop(columns="against"), rtol=1e-4)


@pytest.mark.parametrize(
    ("held", "said"),
    [(b"nothing", "cannot be read"), (np.zeros((3, 2), dtype=np.float32), "holds logits of shape (3, 2)")],
)
def test_what_fine_tuning_left_of_the_selection_rows_is_checked(made, interrupted, held, said):
    file = interrupted / "selection.npy"
    file.write_bytes(held) if isinstance(held, bytes) else np.save(file, held)
    outcome = undertow("audit", *made.arguments, "--out", interrupted)
    assert outcome.code == 2
    assert said in " ".join(outcome.err.split())
    assert "Delete this one file" in " ".join(outcome.err.split())
    assert list(manifest(interrupted)["stages"]) == ["fine-tune", "influence"]


def opinion(name: str, sure: float, *, held_out: bool) -> Opinion:
    """Of trusted rows, half of each class, that all get the same probability of their own label."""
    labels = np.arange(400) % 2
    own = np.where(labels[:, None] == np.arange(2), sure, 1 - sure)
    wrong = np.arange(400) % 100 < 100 * (1 - sure)  # as often as it says
    told = Told(np.where(wrong[:, None], own[:, ::-1], own), labels, held_out=held_out)
    return Opinion(name, told, told)


@pytest.mark.parametrize(("tuned", "asked"), [(0.6, "probe"), (0.72, "probe"), (0.85, "tuned")])
def test_the_fine_tuned_model_is_asked_only_where_it_is_much_clearer(tuned, asked):
    found = more_reliable(opinion("tuned", tuned, held_out=False), opinion("probe", 0.7, held_out=True))
    assert found.name == asked


@pytest.mark.parametrize(
    ("held_out", "asked", "spread"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_rows_are_promised_what_the_probe_says_of_as_many_of_its_own_first(held_out, asked, spread):
    """Doubts that have nothing to do with the harm: averaged along it they are all alike."""
    planned, _ = plan_canaries(load_samples(tiny.rows(ROWS, seed=21)), AuditSettings(), trained_here=True)
    random, rest, labels = np.random.default_rng(0), planned.rest, planned.audited.labels
    everyone = random.permutation(len(planned.audited)) / len(planned.audited)
    said = random.dirichlet(np.full(len(planned.taught.classes), 0.3), len(planned.audited))
    told = Told(said, labels, held_out=held_out)
    trusted = Told(np.maximum(np.eye(said.shape[1])[labels], 0.05), labels)
    share = Share(0.2, 0.1, 0.3, np.full(said.shape[1], 0.2), 0.0, read_by(trusted))
    odds = _odds(everyone, everyone[len(planned.taught) :], planned, told, share, asked=asked)[rest]
    assert np.all(np.diff(odds[np.argsort(everyone[rest])]) >= 0)
    assert (np.quantile(odds, 0.9) - np.quantile(odds, 0.1) > 1.5) == spread


def test_what_a_model_says_is_parted_into_the_rest_and_the_canaries():
    rows = load_samples(tiny.rows(ROWS, seed=21))
    labels, classes = rows.labels, len(rows.classes)
    planned, _ = plan_canaries(rows, AuditSettings(), trained_here=True)
    twins, n = planned.canaries.positions, len(rows)
    said = np.random.default_rng(0).dirichlet(np.ones(classes), len(planned.audited))
    rest, canaries = planned.parted(Told(said, planned.audited.labels, held_out=True))
    assert sorted([*planned.rest, *twins]) == list(range(n))
    np.testing.assert_array_equal(rest.labels, labels[planned.rest])
    np.testing.assert_array_equal(rest.probabilities, said[planned.rest])
    np.testing.assert_array_equal(canaries.labels, labels[twins])
    np.testing.assert_array_equal(canaries.learned, planned.taught.labels[twins])
    np.testing.assert_array_equal(canaries.probabilities, said[n:])
    assert rest.held_out
    assert canaries.held_out
