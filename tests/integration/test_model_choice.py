"""What is trained, and what is audited as it is, by what came with the model."""

import json
from collections import Counter

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from undertow.pipeline.inputs import load_inputs
from undertow.pipeline.settings import settings_from

from . import tiny
from .command import undertow
from .conftest import run

NAMES = ("shrug", "praise", "blame")  # as the trained classifier numbers them


def stages(folder):
    return list(json.loads((folder / "run.json").read_text())["stages"])


def files(place):
    return ("--train", place("train.csv"), "--validation", place("validation.jsonl"))


def test_never_refuses_a_model_without_anything_trained(place, tmp_path):
    outcome = undertow("audit", "--model", place("bert"), *files(place), "--finetune", "never", "--out", tmp_path / "r")
    assert outcome.code == 2
    assert "neither a trained adapter nor a trained classification head" in outcome.complaint
    assert "--finetune auto" in outcome.complaint
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def classifier_run(place, tmp_path_factory):
    return run(tmp_path_factory.mktemp("classifier") / "run", "--model", place("classifier"), *files(place))


def test_auto_audits_the_whole_of_a_trained_classifier(classifier_run, place):
    """Nothing is trained again; every linear layer, norm and the word embeddings are tracked."""
    assert stages(classifier_run.folder) == ["influence", "outputs"]
    told = json.loads((classifier_run.folder / "run.json").read_text())
    modules = told["stages"]["influence"]["outputs"]["modules"]
    assert Counter(m["kind"] for m in modules) == {"attention": 8, "mlp": 4, "norm": 5, "head": 2, "embedding": 1}
    assert all(m["trained"] for m in modules)
    model = AutoModelForSequenceClassification.from_pretrained(place("classifier"))
    counts = {name: p.numel() for name, p in model.named_parameters()}
    elsewhere = [n for n in counts if "position_embeddings" in n or "token_type_embeddings" in n]
    assert told["results"]["parameters"] == sum(counts.values()) - sum(counts[n] for n in elsewhere)
    assert f"20 modules with {told['results']['parameters']:,} parameters" in classifier_run.outcome.said
    table = pd.read_parquet(classifier_run.folder / "harm.parquet")
    groups = [c for c in table.columns if c.startswith("harm_")]
    assert groups == ["harm_embedding", "harm_att1", "harm_att3", "harm_head", "harm_all"]
    assert table["harm"].tolist() == table["harm_all"].tolist()


def test_outputs_mean_what_the_model_calls_them(classifier_run, place):
    table = pd.read_parquet(classifier_run.folder / "harm.parquet")
    model = AutoModelForSequenceClassification.from_pretrained(place("classifier")).eval()
    for row in table.head(5).to_dict("records"):
        with torch.no_grad():
            found = model(**tiny.tokenizer()([row["text"]], return_tensors="pt")).logits.softmax(-1)[0]
        assert row["predicted_label"] == NAMES[int(found.argmax())]
        given = found[NAMES.index(row["label"])]
        assert row["loss"] == pytest.approx(-float(given.log()), abs=1e-5)


def test_always_trains_a_new_adapter_on_a_trained_one(full, place, tmp_path, asked):
    arguments = [*asked]
    arguments[arguments.index("--model") + 1] = full.folder / "adapter"
    made = run(tmp_path / "run", *arguments, "--finetune", "always", "--rank", 2)
    assert stages(made.folder) == ["fine-tune", "influence", "outputs"]
    config = json.loads((made.folder / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["base_model_name_or_path"] == str(place("bert").resolve())


def test_always_makes_a_new_head_for_other_classes(place, tmp_path, asked):
    two = [tiny.rows(n, seed=n, classes=("praise", "blame")) for n in (40, 20)]
    sources = [tiny.write(t, tmp_path / f"{len(t)}.csv") for t in two]
    common = ("--model", place("classifier"), "--train", sources[0], "--validation", sources[1], *asked[6:])
    made = run(tmp_path / "run", *common, "--finetune", "always")
    assert json.loads((made.folder / "run.json").read_text())["results"]["classes"] == ["blame", "praise"]


def test_a_head_for_more_classes_than_the_data_has(place, tmp_path):
    two = [tiny.rows(n, seed=n, classes=("praise", "blame")) for n in (40, 20)]
    inputs = load_inputs(*two, None, None, settings_from({}), model_classes=NAMES)
    assert inputs.train.classes == NAMES
    assert set(inputs.train.label_names) == {"praise", "blame"}


def test_a_head_with_other_classes_is_refused(place, tmp_path):
    other = tiny.rows(40, seed=1).replace({"label": {"praise": "joy"}})
    sources = [tiny.write(other, tmp_path / f"{n}.csv") for n in "ab"]
    outcome = undertow(
        *("audit", "--model", place("classifier"), "--out", tmp_path / "run"),
        *("--train", sources[0], "--validation", sources[1]),
    )
    assert outcome.code == 2
    assert "trained for the classes shrug, praise, blame, but the training data has blame, joy, shrug" in (
        outcome.complaint
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("validation", "options", "rows", "expected"),
    [
        (600, {}, 200, "200 held-out rows of in-memory DataFrame that chose neither a checkpoint nor a sample"),
        (599, {}, 299, "299 validation rows that also chose the checkpoints (fewer than 600 are too few"),
        (600, {"holdout_share": 0}, 300, "also chose the checkpoints (--holdout-share 0 holds none out)"),
        (60, {"holdout_share": 0.5}, 30, "30 held-out rows of in-memory DataFrame"),
    ],
)
def test_which_rows_models_are_compared_on(validation, options, rows, expected):
    given = load_inputs(
        tiny.rows(40, seed=1),
        tiny.rows(validation, seed=2),
        None,
        None,
        settings_from({"retrain": True, **options}),
    )
    assert len(given.evaluation) == rows
    assert expected in given.evaluated_on
    taken = [set(part.rows) for part in (given.selection, given.queries)]
    assert not taken[0] & taken[1]
    if "held-out" in given.evaluated_on:
        assert not set(given.evaluation.rows) & (taken[0] | taken[1])


def test_a_test_source_is_what_models_are_compared_on():
    given = load_inputs(
        *(tiny.rows(40, seed=1), tiny.rows(900, seed=2), None, tiny.rows(30, seed=3)),
        settings_from({"retrain": True}),
    )
    assert given.evaluated_on == "30 rows of the test source in-memory DataFrame"
    assert (len(given.selection), len(given.queries), len(given.evaluation)) == (450, 450, 30)


def test_retraining_is_compared_on_held_out_rows(place, tmp_path, asked):
    trusted = tiny.write(tiny.rows(60, seed=7), tmp_path / "trusted.csv")
    arguments = [*asked]
    arguments[arguments.index("--validation") + 1] = trusted
    made = run(tmp_path / "run", *arguments, "--retrain", "--holdout-share", 0.5)
    assert "Compared on 30 held-out rows of trusted.csv that chose neither a checkpoint nor a sample." in (
        made.outcome.said
    )
    assert [s for s in stages(made.folder) if s.startswith("retrain")] == [
        f"retrain: {name}" for name in ("as given", "dropped", "random removal")
    ]


def test_separate_queries_leave_all_validation_rows_for_selection(place, tmp_path, asked):
    queries = tiny.write(tiny.rows(12, seed=6), tmp_path / "queries.jsonl")
    made = run(tmp_path / "run", *asked, "--queries", queries)
    results = json.loads((made.folder / "run.json").read_text())["results"]
    assert (results["selection_rows"], results["query_rows"]) == (30, 12)
