"""Estimators that follow a training: one of the user's own, recorded; and what cannot be followed."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from undertow.models.quiet import quiet_loading
from undertow.training.checkpoints import CheckpointRecorder, recorded_checkpoints
from undertow.training.lora import attach_lora

from . import tiny
from .conftest import quick, run
from .test_estimators_command import opened

CLASSES = ("shrug", "praise", "blame")


class Rows(torch.utils.data.Dataset):
    def __init__(self, table):
        tokenizer = tiny.tokenizer()
        self.rows = [
            {**tokenizer(text), "labels": CLASSES.index(label)}
            for text, label in zip(table["text"], table["label"], strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """An adapter trained with transformers' own Trainer, recorded; and what was recorded."""
    path = tmp_path_factory.mktemp("trained")
    names = dict(enumerate(CLASSES))
    with quiet_loading():
        base = AutoModelForSequenceClassification.from_pretrained(
            place("bert"), num_labels=3, id2label=names, label2id={c: i for i, c in names.items()}
        )
    model = attach_lora(base, rank=2, alpha=4.0, dropout=0.0, seed=0)
    arguments = TrainingArguments(
        str(path / "trainer"),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Rows(tiny.rows(60, seed=1)),
        data_collator=DataCollatorWithPadding(tiny.tokenizer()),
        callbacks=[CheckpointRecorder(path / "recorded")],
    )
    trainer.train()
    model.save_pretrained(path / "adapter")
    return path


def test_a_recorded_training_of_ones_own(trained, place, tmp_path):
    command = ("--model", trained / "adapter", *quick(place)[2:6], "--recorded", trained / "recorded")
    made = run(tmp_path / "run", *command, "--estimator", "tracincp,less,tracin")
    assert "fine-tuning" not in made.outcome.err
    assert "step 4: gradients of the samples" in made.outcome.err
    influence = opened(made.folder)
    assert influence["covered"].sel(estimator="less").values.tolist() == influence["trained"].values.tolist()
    # The sum over checkpoints, from audits of each of them; the rate falls in a line to 0 after the last step.
    total = 0
    for record in recorded_checkpoints(trained / "recorded"):
        at = at_step(trained, record, tmp_path / f"step-{record.step}")
        alone = run(tmp_path / f"alone-{record.step}", "--model", at, *quick(place)[2:6], "--estimator", "tracin")
        rate = np.mean([0.01 * (1 - step / 12) for step in range(record.step - 4, record.step)])
        total = total + rate * opened(alone.folder)["influence"].sel(estimator="tracin").values
    assert [r.step for r in recorded_checkpoints(trained / "recorded")] == [4, 8, 12]
    found = influence["influence"].sel(estimator="tracincp").values
    for module, (one, other) in enumerate(zip(found, total, strict=True)):
        assert one == pytest.approx(other, abs=1e-5 * float(np.abs(other).max())), module


def at_step(trained, record, folder):
    """The adapter as it was at a recorded step."""
    shutil.copytree(trained / "adapter", folder)
    weights = load_file(folder / "adapter_model.safetensors")
    recorded = {n.replace(".default.", ".").replace("modules_to_save.", ""): v for n, v in record.weights().items()}
    assert set(weights) == set(recorded)
    save_file({n: v.contiguous() for n, v in recorded.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["tracincp", "less"])
def test_estimators_that_follow_a_training_that_was_not(name, refused_early, place):
    said = refused_early("--finetune", "never", "--estimator", f"cosine,{name}", model=place("classifier"))
    assert f"{name} follows the training, and this model was not trained here" in said
    assert "--finetune always" in said
    assert "--recorded FOLDER" in said


def test_a_record_that_is_not_there(refused_early, place, tmp_path):
    given = ("--finetune", "never", "--estimator", "tracincp", "--recorded", tmp_path / "gone")
    assert str(tmp_path / "gone") in refused_early(*given, model=place("classifier"))
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused_early(*given[:-1], tmp_path / "empty", model=place("classifier"))


def test_a_record_of_another_model(refused_early, trained, place, tmp_path):
    first = at_other_weights(trained, tmp_path / "other")
    said = refused_early("--estimator", "less", "--recorded", trained / "recorded", model=first)
    assert f"None of the checkpoints recorded in {trained / 'recorded'} has the weights of this model" in said
    said = refused_early("--estimator", "tracincp", "--recorded", trained / "recorded", model=place("classifier"))
    assert "parameters that the model does not have" in said


def at_other_weights(trained, folder):
    shutil.copytree(trained / "adapter", folder)
    weights = {n: v + 1 for n, v in load_file(folder / "adapter_model.safetensors").items()}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder
