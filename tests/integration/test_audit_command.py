"""The whole of ``undertow audit``, from files to the run folder."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from . import tiny
from .command import contents, undertow
from .conftest import QUICK, run

COLUMNS = [
    *("row", "text", "label", "predicted_label", "predicted_probability", "suggested_label"),
    *("loss", "harm", "rank", "flagged", "removed"),
]
GROUPS = ["harm_embedding", "harm_att1", "harm_att3", "harm_head", "harm_all"]


def manifest(folder):
    return json.loads((folder / "run.json").read_text())


def test_all_files_are_there_and_no_others(full, plain):
    common = {
        "adapter",
        "cancellation.parquet",
        "cleaned.jsonl",
        "dynamics.npy",
        "harm.parquet",
        "influence.zarr",
        "removed.jsonl",
        "report.html",
        "run.json",
    }
    assert {p.name for p in full.folder.iterdir()} == common | {"heldout.parquet"}
    assert {p.name for p in plain.folder.iterdir()} == common


def test_run_json_says_how_it_was_made(full, place):
    told = manifest(full.folder)
    asked = told["configuration"]
    assert asked["model"] == str(place("bert"))
    assert asked["train"] == str(place("train.csv"))
    assert (asked["epochs"], asked["plant"], asked["retrain"]) == (1, 0.2, ["drop", "relabel", "weight"])
    assert asked["estimators"] == ["tracin", "cosine", "datainf"]
    assert (asked["aggregate"], asked["layers"], asked["cut"], asked["k"]) == ("rank", "all", None, 0.3)
    assert told["results"]["cut"] == 0.3
    assert told["results"]["controls"] is None
    assert told["seeds"] == {"seed": 0}
    assert {"python", "undertow", "torch", "transformers", "peft"} <= set(told["versions"])
    assert set(told["fingerprints"]) == {"training", "validation", "test", "model"}
    assert all(len(value) == 64 for value in told["fingerprints"].values())
    arms = [f"retrain: {name}" for name in ("as given", "dropped", "random removal", "oracle", "oracle labels")]
    assert list(told["stages"]) == ["fine-tune", "influence", *arms, "outputs"]
    assert all(stage["seconds"] >= 0 and stage["peak_memory_mb"] > 50 for stage in told["stages"].values())
    assert told["results"]["flagged"] == 18


def test_harm_table(full, plain):
    table = pd.read_parquet(full.folder / "harm.parquet")
    assert list(table.columns) == [*COLUMNS, *GROUPS, "planted", "original_label"]
    assert table["row"].tolist() == list(range(60))
    assert sorted(table["rank"]) == list(range(1, 61))
    assert table["flagged"].sum() == 18
    assert (table["flagged"] == (table["rank"] <= 18)).all()
    assert table["removed"].equals(table["flagged"])
    assert table.sort_values("rank")["harm"].is_monotonic_decreasing
    assert table["suggested_label"].notna().equals(table["flagged"])
    flagged = table[table["flagged"]]
    assert (flagged["suggested_label"] != flagged["label"]).all()
    assert (table["harm"] == table["harm_all"]).all()

    pairs = pd.read_parquet(plain.folder / "harm.parquet")
    assert list(pairs.columns) == ["row", "text", "text_pair", *COLUMNS[2:], *GROUPS]
    assert pairs["text_pair"].str.len().min() > 0


def test_planted_rows_are_known_by_their_original_label(full):
    table = pd.read_parquet(full.folder / "harm.parquet")
    given = tiny.rows(60, seed=1)
    assert table["planted"].sum() == 12
    assert table["original_label"].tolist() == given["label"].tolist()
    assert ((table["label"] != table["original_label"]) == table["planted"]).all()


@pytest.mark.parametrize(("name", "estimators", "queries"), [("full", 3, 15), ("plain", 1, 12)])
def test_influence_opens_with_xarray(name, estimators, queries, request):
    made = request.getfixturevalue(name)
    with xr.open_zarr(made.folder / "influence.zarr", chunks=None) as dataset:
        tensor = dataset["influence"]
        assert tensor.dims == ("estimator", "module", "query", "sample")
        assert tensor.shape == (estimators, 10, queries, len(pd.read_parquet(made.folder / "harm.parquet")))
        assert np.isfinite(tensor.values).all()
        assert tensor.values.std(axis=(1, 2, 3)).min() > 0
        assert "positive = helpful" in dataset.attrs["sign"]
        # Word embeddings are tracked beside what fine-tuning changed.
        assert dataset["kind"].values[~dataset["trained"].values].tolist() == ["embedding"]


@pytest.mark.parametrize("name", ["full", "plain"])
def test_cleaned_and_removed_are_the_rows_as_they_came(name, request, place):
    made = request.getfixturevalue(name)
    table = pd.read_parquet(made.folder / "harm.parquet")
    cleaned, removed = (tiny.read_jsonl(made.folder / f"{part}.jsonl") for part in ("cleaned", "removed"))
    given = tiny.rows(60, seed=1) if name == "full" else tiny.rows(48, seed=4, pairs=True)
    rows = given.to_dict("records")
    remedy = manifest(made.folder)["results"]["remedy"]
    assert remedy == ("as given" if name == "full" else "dropped")  # where it was measured, nothing helped
    out = table["flagged"] & (remedy == "dropped")
    assert cleaned == [row for row, gone in zip(rows, out, strict=True) if not gone]
    assert removed == [row for row, gone in zip(rows, out, strict=True) if gone]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft, of what transformers renamed
def test_adapter_loads_with_peft(full, place):
    classes = json.loads((full.folder / "adapter" / "undertow.json").read_text())["classes"]
    base = AutoModelForSequenceClassification.from_pretrained(place("bert"), num_labels=len(classes))
    model = PeftModel.from_pretrained(base, str(full.folder / "adapter")).eval()
    batch = tiny.tokenizer()(["the soup was superb"], return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    table = pd.read_parquet(full.folder / "harm.parquet")
    assert classes == ["blame", "praise", "shrug"]
    assert logits.shape == (1, 3)
    row = table.iloc[0]
    with torch.no_grad():
        found = model(**tiny.tokenizer()([row["text"]], return_tensors="pt")).logits.softmax(-1)[0]
    assert found.max().item() == pytest.approx(row["predicted_probability"], abs=1e-5)
    assert classes[int(found.argmax())] == row["predicted_label"]


def test_adapter_is_audited_without_training_it_again(full, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the adapter names its base by its whole path
    files = ("--train", place("train.csv"), "--validation", place("validation.jsonl"))
    again = run(tmp_path / "again", "--model", full.folder / "adapter", *files)
    assert "fine-tuning" not in again.outcome.err
    assert list(manifest(again.folder)["stages"]) == ["influence", "outputs"]
    assert not (again.folder / "adapter").exists()
    before, after = (pd.read_parquet(r.folder / "harm.parquet") for r in (full, again))
    same = before["planted"] == False  # noqa: E712
    assert after.loc[same, "loss"].to_numpy() == pytest.approx(before.loc[same, "loss"].to_numpy(), abs=1e-5)


def test_report(full):
    page = (full.folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    for expected in ("train.csv", "18", "planted", "as given", "random removal", "Training data train.csv"):
        assert expected in page


def test_summary_says_what_came_out(full):
    said = full.outcome.said
    assert "18 of 60 rows are flagged as most harmful." in said
    assert "The 10 most harmful rows" in said
    table = pd.read_parquet(full.folder / "harm.parquet").nsmallest(10, "rank")
    lines = full.outcome.out.splitlines()
    for row in table.to_dict("records"):
        start = [str(row["rank"]), str(row["row"]), row["label"], row["suggested_label"], row["predicted_label"]]
        assert any(line.split()[:5] == start for line in lines), start
    for expected in ("NDR@10", "NDR@20", "NDR@30", "AUC-NDR", "tracin", "loss", "random", "ideal", "cosine", "datainf"):
        assert expected in said
    for arm in ("as given 60", "dropped 42", "random removal 42", "oracle 48", "oracle labels 60"):
        assert arm in said
    assert "Compared on 24 rows of the test source test.parquet." in said
    for file in ("report.html", "harm.parquet", "cleaned.jsonl", "removed.jsonl", "influence.zarr"):
        assert str(full.folder / file) in full.outcome.out
    assert "Next:" in said


def test_next_command_carries_the_options(plain):
    line = next(line for line in plain.outcome.out.splitlines() if "undertow audit" in line)
    for expected in ("--epochs 1", "--batch-size 16", "--retrain", f"--out {plain.folder}-retrained"):
        assert expected in line
    assert "--rank" not in line


def test_progress_goes_to_standard_error(full, plain):
    for expected in ("fine-tuning", "gradients of the samples", "influence of the modules", "retrain: dropped"):
        assert expected in full.outcome.err
        assert expected not in full.outcome.out
    heads = [line for line in full.outcome.err.splitlines() if " data " in line]
    assert [line.split(":")[0] for line in heads] == [
        "Training data train.csv",
        "Validation data validation.jsonl",
        "Test data test.parquet",
    ]
    assert "60 rows, 3 classes (blame, praise, shrug)" in heads[0]
    assert all("label 'label': by name" in line and "text 'text': by name" in line for line in heads)
    assert "second text 'hypothesis'" in plain.outcome.err


@pytest.mark.parametrize("name", ["full", "plain"])
def test_no_other_library_says_anything(name, request):
    stages = "fine-tuning|gradients of the|influence of|cancellation of|aggregation of|retrain:|evaluate:"
    findings = ".* rows are flagged as most harmful.*the report so far: .*"
    ours = rf"(Training|Validation|Test) data .*|({stages}).*|{findings}"
    lines = [line.strip() for line in request.getfixturevalue(name).outcome.err.splitlines() if line.strip()]
    assert [line for line in lines if not re.fullmatch(ours, line)] == []


def test_missing_pad_token_is_noted(plain):
    assert "Note: The tokenizer has no pad token; </s> pads instead." in plain.outcome.said


def test_arms_leave_out_the_right_rows(full):
    results = manifest(full.folder)["results"]
    assert {arm["name"]: arm["rows"] for arm in results["arms"]} == {
        "as given": 60,
        "dropped": 42,
        "random removal": 42,
        "oracle": 48,
        "oracle labels": 60,
    }
    kept = pd.read_parquet(full.folder / "heldout.parquet")
    assert list(kept.columns) == ["row", "label", "as given", "dropped", "random removal", "oracle", "oracle labels"]
    test = tiny.rows(24, seed=3)
    assert kept["label"].tolist() == test["label"].tolist()
    for arm in results["arms"]:
        assert arm["accuracy"] == pytest.approx((kept[arm["name"]] == kept["label"]).mean())
        assert arm["low"] <= arm["accuracy"] <= arm["high"]


def test_what_a_user_should_know_of_the_data(place, tmp_path, asked):
    long = tiny.rows(60, seed=1)
    long.loc[:2, "text"] = long["text"][:3] + " tea" * 100
    long.loc[5, "text"] = long.loc[4, "text"]
    trusted = pd.concat([tiny.rows(30, seed=2), long.iloc[10:14]])
    arguments = [*asked]
    arguments[arguments.index("--train") + 1] = tiny.write(long, tmp_path / "long.csv")
    arguments[arguments.index("--validation") + 1] = tiny.write(trusted, tmp_path / "trusted.csv")
    made = run(tmp_path / "run", *arguments, "--max-length", 80)
    notes = (
        "Leak: 4 of 60 training rows stand in the validation source too, word for word.",
        "2 training rows repeat a text that also carries another label.",
        # The model itself reads no more than 64 tokens.
        "3 of 60 training texts and 0 of 17 queries are longer than 64 tokens and were cut",
    )
    page = (made.folder / "report.html").read_text()
    for note in notes:
        assert f"Note: {note}" in made.outcome.said
        assert note in page
    assert all(note in made.outcome.err for note in notes[:2])


def test_text_is_printed_as_it_is(place, tmp_path, asked):
    odd = tiny.rows(18, seed=9)
    odd["text"] = [f"[bold]soup[/bold] [/] <b>tea</b> \x1b[31m &amp; {t}" for t in odd["text"]]
    odd["label"] = odd["label"].map({"praise": "[b]ok[/b]", "blame": "<i>bad</i>", "shrug": "[/]"})
    trusted = odd.assign(text=odd["text"] + " boat")
    tiny.write(odd, tmp_path / "[odd] & <train>.jsonl")
    tiny.write(trusted, tmp_path / "trusted.jsonl")
    files = ("--train", tmp_path / "[odd] & <train>.jsonl", "--validation", tmp_path / "trusted.jsonl")
    # With few flagged rows, most of the ten worst carry no suggestion.
    made = run(tmp_path / "[run]", "--model", place("bert"), *files, *QUICK, "--cut", 0.1)
    assert "[bold]" in made.outcome.out
    assert "3 classes (<i>bad</i>, [/], [b]ok[/b])" in made.outcome.err
    assert "[/]" in made.outcome.out
    assert "<i>bad</i>" in made.outcome.out
    assert "\x1b" not in made.outcome.out
    assert str(tmp_path / "[run]" / "report.html") in made.outcome.out
    page = (made.folder / "report.html").read_text()
    assert "<b>tea</b>" not in page
    assert "&lt;b&gt;tea&lt;/b&gt;" in page
    assert "\x1b" not in page


def test_finished_run_is_shown_again_and_left_alone(full):
    before = contents(full.folder)
    again = undertow("audit", *full.arguments, "--out", full.folder)
    assert again.code == 0
    assert again.out == full.outcome.out
    assert "is finished; nothing is computed again" in again.err
    assert "fine-tuning" not in again.err
    assert contents(full.folder) == before


def test_same_command_gives_the_same_harm(plain, tmp_path):
    other = run(tmp_path / "other", *plain.arguments)
    first, second = (pd.read_parquet(r.folder / "harm.parquet") for r in (plain, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert manifest(plain.folder)["results"] == manifest(other.folder)["results"]
    assert manifest(plain.folder)["fingerprints"] == manifest(other.folder)["fingerprints"]


def test_overwrite_replaces_the_run_and_nothing_else(plain, tmp_path, asked):
    folder = shutil.copytree(plain.folder, tmp_path / "run")
    (folder / "my notes.txt").write_text("mine")
    before = contents(folder)
    failed = undertow("audit", *asked[2:], "--model", "/nowhere", "--out", folder, "--overwrite")
    assert failed.code == 2
    assert contents(folder) == before  # a start that fails takes nothing with it
    run(folder, *asked, "--cut", 0.1, "--overwrite")
    assert pd.read_parquet(folder / "harm.parquet")["flagged"].sum() == 6
    assert (folder / "my notes.txt").read_text() == "mine"
