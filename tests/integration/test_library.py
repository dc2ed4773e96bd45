"""The same job from Python, with objects in memory: in one call, and step by step."""

import copy
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import BertForSequenceClassification

import undertow
from undertow.errors import ConfigError, ModelError, RunFolderError
from undertow.gradients.store import GradientStore
from undertow.models.loading import weights_fingerprint
from undertow.models.quiet import quiet_loading
from undertow.pipeline.gradients import Places

from . import tiny

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
CLASSES = ("blame", "praise", "shrug")


def classifier(names=None) -> BertForSequenceClassification:
    torch.manual_seed(3)
    more = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if names else {}
    return BertForSequenceClassification(tiny.bert_config(num_labels=3, **more))


def with_adapter(model):
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"], init_lora_weights=False)
    with quiet_loading():
        return get_peft_model(model, config)


def state(model) -> tuple[object, ...]:
    modes = [m.training for m in model.modules()]
    required = [p.requires_grad for p in model.parameters()]
    return weights_fingerprint(model), modes, required, [n for n, _ in model.named_modules()], str(model.config)


def uneven(model):
    """A state that no default would give back: training, but for one part; some parameters frozen."""
    model.train()
    model.get_submodule("base_model" if hasattr(model, "peft_config") else "bert.encoder").eval()
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def frames():
    return tiny.rows(48, seed=1), tiny.rows(24, seed=2)


@pytest.fixture(scope="module")
def in_memory(frames):
    """A whole audit without a folder, with what the user's objects were before and after."""
    model, tokenizer = uneven(classifier()), tiny.tokenizer(kind="bert")
    tokenizer.padding_side = "left"
    before = state(model)
    train, validation = frames
    data = Dataset.from_pandas(train, preserve_index=False)
    result = undertow.audit(model, data, validation, tokenizer=tokenizer, progress=False, plant=0.25, **QUICK)
    return result, before, state(model), tokenizer


def test_audit_in_memory_returns_everything(in_memory, frames):
    result, *_ = in_memory
    train = frames[0]
    assert result.folder is None
    assert len(result.harm) == 48
    assert result.harm["planted"].sum() == 12
    assert result.results.flagged == 14
    assert len(result.cleaned) == 34
    assert len(result.removed) == 14
    assert result.cleaned.column_names == list(train.columns)
    together = pd.concat([result.cleaned.to_pandas(), result.removed.to_pandas()]).sort_values("id")
    assert together.to_dict("records") == train.to_dict("records")  # the user's labels, not the planted ones
    assert result.results.arms == ()
    assert set(result.detection_curves()) == {"audit", "loss", "random", "ideal"}


def test_influence_is_readable_when_the_audit_is_over(in_memory):
    influence = in_memory[0].influence
    assert influence["influence"].dims == ("estimator", "module", "query", "sample")
    values = influence["influence"].sel(estimator="cosine").values
    assert values.shape == (10, 12, 48)
    assert np.isfinite(values).all()
    assert values.std(axis=(1, 2)).min() > 0
    assert influence["sample_loss"].values == pytest.approx(in_memory[0].harm["loss"].to_numpy())


def test_report_is_written_on_demand_and_never_over_another(in_memory, tmp_path):
    result, *_ = in_memory
    path = result.report(tmp_path / "pages" / "report.html")
    assert "in-memory BertForSequenceClassification" in path.read_text()
    with pytest.raises(RunFolderError, match=r"report\.html exists and is not overwritten\. Name another file"):
        result.report(path)


def test_the_users_model_and_tokenizer_stay_as_they_were(in_memory):
    _, before, after, tokenizer = in_memory
    assert before == after
    assert tokenizer.padding_side == "left"


def test_an_adapter_in_memory_is_audited_and_stays_as_it_was(frames):
    model = uneven(with_adapter(classifier(CLASSES)))
    tokenizer = tiny.tokenizer()
    before = state(model)
    result = undertow.audit(model, *frames, tokenizer=tokenizer, progress=False, retrain=True, **QUICK)
    assert state(model) == before
    assert "fine-tune" not in result.manifest["stages"]
    assert set(result.influence["projection"].values) == {"word_embeddings", "query", "classifier"}
    assert [a.name for a in result.results.arms] == ["as given", "dropped", "random removal"]
    with torch.no_grad():
        found = model.eval()(**tokenizer([result.harm["text"][0]], return_tensors="pt")).logits.softmax(-1)
    assert found.max().item() == pytest.approx(result.harm["predicted_probability"][0], abs=1e-5)


def test_outputs_of_a_model_in_memory_keep_their_names(frames):
    names = ("shrug", "praise", "blame")
    model, tokenizer = classifier(names).eval(), tiny.tokenizer()
    result = undertow.audit(model, *frames, tokenizer=tokenizer, progress=False, finetune="never")
    assert result.results.classes == names
    with torch.no_grad():
        logits = model(**tokenizer([result.harm["text"][0]], return_tensors="pt")).logits
    assert result.harm["predicted_label"][0] == names[int(logits.argmax())]


def test_numbers_are_positions_of_named_outputs(frames):
    numbered = [f.assign(label=f["label"].map({"shrug": 0, "praise": 1, "blame": 2})) for f in frames]
    model = classifier(("shrug", "praise", "blame")).eval()
    result = undertow.audit(model, *numbered, tokenizer=tiny.tokenizer(), progress=False, finetune="never")
    assert result.results.classes == ("0", "1", "2")
    assert any("0 is shrug, 1 is praise, 2 is blame" in note for note in result.results.notes)


def test_outputs_without_names_are_said_to_be_guessed(frames):
    result = undertow.audit(classifier(), *frames, tokenizer=tiny.tokenizer(), progress=False, finetune="never")
    assert any("does not name its outputs" in n and "0 is blame, 1 is praise" in n for n in result.results.notes)


def test_classes_of_the_data_set_keep_their_order(frames):
    features = ClassLabel(names=["shrug", "praise", "blame"])
    tables = [Dataset.from_pandas(f, preserve_index=False).cast_column("label", features) for f in frames]
    result = undertow.audit(classifier(), *tables, tokenizer=tiny.tokenizer(), progress=False, **QUICK)
    assert result.results.classes == ("shrug", "praise", "blame")
    assert result.removed.features["label"] == features


def test_a_model_in_memory_with_a_run_folder(frames, tmp_path):
    given = {"tokenizer": tiny.tokenizer(), "out": tmp_path / "run", "progress": False, **QUICK}
    first = undertow.audit(classifier(), *frames, **given)
    again = undertow.audit(classifier(), *frames, **given)
    pd.testing.assert_frame_equal(first.harm, again.harm)
    assert again.cleaned.to_list() == first.cleaned.to_list()
    assert (tmp_path / "run" / "report.html").is_file()
    with pytest.raises(RunFolderError, match="started with another content of: training"):
        undertow.audit(classifier(), frames[0].iloc[::-1], frames[1], **given)


def test_settings_and_options_go_together(frames):
    settings = undertow.AuditSettings(**QUICK, cut=0.25)
    result = undertow.audit(
        classifier(), *frames, tokenizer=tiny.tokenizer(), progress=False, settings=settings, aggregate="mean"
    )
    assert result.manifest["configuration"]["aggregate"] == "mean"
    assert result.results.flagged == 12
    with pytest.raises(ConfigError, match="There is no option 'cutt'"):
        undertow.audit(classifier(), *frames, cutt=0.2)


@pytest.mark.parametrize(
    ("model", "tokenizer", "expected"),
    [
        (classifier, None, "without its tokenizer"),
        (lambda: BertForSequenceClassification(tiny.bert_config(num_labels=2)), tiny.tokenizer, "has 2 outputs"),
        (lambda: classifier(("a", "b", "c")), tiny.tokenizer, "trained for the classes a, b, c"),
    ],
)
def test_models_in_memory_that_do_not_fit(model, tokenizer, expected, frames):
    with pytest.raises(ModelError, match=expected):
        undertow.audit(model(), *frames, tokenizer=tokenizer and tokenizer(), progress=False)


def test_a_tokenizer_of_another_model_is_refused(frames):
    small = BertForSequenceClassification(tiny.bert_config(num_labels=3, vocab_size=8))
    with pytest.raises(ModelError, match=r"token ids up to 26, the model knows 8 tokens"):
        undertow.audit(small, *frames, tokenizer=tiny.tokenizer(), progress=False)


def test_gradients_that_memory_has_no_room_for(frames, tmp_path, monkeypatch):
    """They go to files that are gone afterwards, and nothing changes by it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = {"tokenizer": tiny.tokenizer(), "progress": False, "finetune": "never"}
    seen = []
    whole = GradientStore.__init__

    def opened(store, *arguments, **named):
        whole(store, *arguments, **named)
        seen.append(store.folder)

    monkeypatch.setattr(GradientStore, "__init__", opened)
    spilled = undertow.audit(classifier(CLASSES).eval(), *frames, memory=1e-6, **given)
    assert len(seen) == 2
    assert all("scratch" in folder.parts for folder in seen)
    assert list(tmp_path.iterdir()) == []
    roomy = undertow.audit(classifier(CLASSES).eval(), *frames, **given)
    assert seen[2:] == [None, None]
    pd.testing.assert_frame_equal(spilled.harm, roomy.harm, check_exact=True)
    assert np.array_equal(spilled.influence["influence"].values, roomy.influence["influence"].values)

    samples = [undertow.load_samples(frame) for frame in frames]
    settings = undertow.AuditSettings(memory=1e-6)
    with pytest.raises(ConfigError, match="no folder was given to keep them in"):
        undertow.influence_step(classifier(CLASSES), tiny.tokenizer(), *samples, settings)


def test_each_step_alone(frames, tmp_path):
    train = undertow.load_samples(frames[0])
    validation = undertow.load_samples(frames[1], classes=train.classes, role="validation")
    parts = undertow.split_validation(validation)
    noisy = undertow.plant_noise(train, 0.2, seed=0)
    settings = undertow.AuditSettings(**QUICK, estimators=("tracin", "datainf"))
    model, tokenizer = uneven(classifier()), tiny.tokenizer()
    before = state(model)

    start = undertow.start_in_memory(model, tokenizer, settings)
    tuned = undertow.fine_tune_step(start, noisy.samples, parts.selection, settings, folder=tmp_path / "checkpoints")
    assert state(model) == before
    assert tuned.best_epoch == 1
    assert len(tuned.selection_loss) == 1
    assert not (tmp_path / "checkpoints").exists()

    trained = state(tuned.model.train())
    influence = undertow.influence_step(tuned.model, start.tokenizer, noisy.samples, parts.queries, settings)
    assert state(tuned.model) == trained
    assert influence["influence"].shape == (2, 10, 12, 48)
    assert int(influence["samples_truncated"]) == 0

    places = Places(tensor=tmp_path / "influence.zarr", gradients=tmp_path / "gradients")
    stored = undertow.influence_step(
        tuned.model, start.tokenizer, noisy.samples, parts.queries, settings, places=places
    )
    read = undertow.open_influence(tmp_path / "influence.zarr")
    for dataset in (stored, read):
        assert np.array_equal(dataset["influence"].values, influence["influence"].values)

    harm = undertow.harm_table(influence, noisy.samples, settings)
    assert harm["flagged"].sum() == 14
    assert undertow.noise_detection(harm["harm"].to_numpy(), noisy.planted).noisy == 10
    trained = influence["trained"].values
    scores = undertow.aggregate(influence["influence"].sel(estimator="tracin").values[trained], "rank")
    assert harm["harm"].to_numpy() == pytest.approx(-scores)


def test_a_start_leaves_the_trained_head_of_an_adapter_behind():
    model = classifier()
    original = copy.deepcopy(model.classifier.weight)
    adapted = with_adapter(model)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(1.0)
    start = undertow.start_in_memory(adapted, tiny.tokenizer(), undertow.AuditSettings())
    base = start.base()
    assert not any("lora" in name for name, _ in base.named_parameters())
    assert torch.equal(base.classifier.weight, original)
    assert weights_fingerprint(start.make()) == weights_fingerprint(start.make())
