"""Margins recorded while training, against what the model itself put out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from undertow.errors import ConfigError, RunFolderError, TrainingError
from undertow.training.dynamics import FILE, Dynamics, DynamicsRecorder, label_margin
from undertow.training.finetune import Finetuned

from .tiny_training import EPOCHS, ROWS, STEPS, Interruption, after, tiny_model, training_rows, tune


def watched_margins(tmp_path: Path) -> tuple[Dynamics, np.ndarray, dict[bool, int]]:
    """The record of a training, the margins seen by a hook on the model, and forward passes by mode."""
    model, labels = tiny_model(), training_rows().labels
    seen = [[] for _ in range(ROWS)]
    passes = {True: 0, False: 0}

    def watch(module, arguments, named, outputs):
        passes[module.training] += 1
        if module.training:
            for ids, logits in zip(named["input_ids"].tolist(), outputs.logits.tolist(), strict=True):
                row = ids[0] - 1
                seen[row].append(logits[labels[row]] - logits[1 - labels[row]])

    model.register_forward_hook(watch, with_kwargs=True)
    tuned = tune(tmp_path / "folder", model=model)
    return tuned.dynamics, np.array(seen).T, passes


def test_margins_are_those_of_the_training_batches(tmp_path: Path):
    dynamics, seen, passes = watched_margins(tmp_path)
    assert dynamics.margin.shape == (EPOCHS, ROWS)
    assert dynamics.margin.dtype == np.float32
    np.testing.assert_allclose(dynamics.margin, seen, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(dynamics.correct, seen > 0)
    assert passes[True] == EPOCHS * STEPS  # no pass of its own
    assert len(np.unique(dynamics.margin)) > ROWS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return tune(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("steps", [1, STEPS, 2 * STEPS + 5, EPOCHS * STEPS])
def test_an_interrupted_training_ends_with_the_same_record(whole: Finetuned, tmp_path: Path, steps: int):
    with pytest.raises(Interruption):
        tune(tmp_path / "folder", advance=after(steps))
    resumed = tune(tmp_path / "folder")
    np.testing.assert_array_equal(resumed.dynamics.margin, whole.dynamics.margin)
    assert resumed.selection_loss == whole.selection_loss
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_checkpoint_without_record_is_not_gone_on_from(whole: Finetuned, tmp_path: Path):
    with pytest.raises(Interruption):
        tune(tmp_path / "folder", advance=after(2 * STEPS + 1))
    for file in (tmp_path / "folder").glob(f"*/{FILE}"):
        file.unlink()
    steps: list[int] = []
    tuned = tune(tmp_path / "folder", advance=steps.append)
    assert steps == [1] * EPOCHS * STEPS
    np.testing.assert_array_equal(tuned.dynamics.margin, whole.dynamics.margin)


def test_every_checkpoint_holds_the_record_so_far(tmp_path: Path):
    whole = tune(tmp_path)
    np.testing.assert_array_equal(tune(tmp_path).dynamics.margin, whole.dynamics.margin)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        epochs = int(checkpoint.name.split("-")[1]) // STEPS
        expected = np.where(np.arange(EPOCHS)[:, None] < epochs, whole.dynamics.margin, np.nan)
        np.testing.assert_array_equal(np.load(checkpoint / FILE), expected)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path):
    tune(tmp_path)
    with pytest.raises(RunFolderError, match=r"training of 3 epochs of 22 samples, and this one is of 3 epochs of 20"):
        tune(tmp_path, train=training_rows(20))
    with pytest.raises(RunFolderError, match="and this one is of 4 epochs of 22 samples"):
        tune(tmp_path, epochs=4)
    shutil.rmtree(tmp_path)
    assert tune(tmp_path, epochs=1).dynamics.margin.shape == (1, ROWS)


def test_margin_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [3.0, 3.0, 0.0], [-1.0, -5.0, -2.0]])
    assert label_margin(logits, torch.tensor([1, 2, 0, 0])).tolist() == [2, -2, 0, 1]
    assert Dynamics(np.array([[2, -2, 0]], dtype=np.float32)).correct.tolist() == [[True, False, False]]


def test_samples_that_were_not_seen():
    recorder = DynamicsRecorder(2, 3)
    recorder.add(0, torch.tensor([2, 0, 1]), torch.randn(3, 2), torch.tensor([0, 1, 1]))
    recorder.add(1, torch.tensor([0, 2]), torch.randn(2, 2), torch.tensor([0, 1]))
    with pytest.raises(TrainingError, match="1 of 3 samples passed some epoch unrecorded"):
        recorder.finished()
    recorder.add(1, torch.tensor([1]), torch.randn(1, 2), torch.tensor([0]))
    assert np.isfinite(recorder.finished().margin).all()


def test_equal_weights_change_nothing(whole: Finetuned, tmp_path: Path):
    tuned = tune(tmp_path, weights=np.full(ROWS, 3.0))
    assert tuned.selection_loss == whole.selection_loss


def test_a_row_of_no_weight_trains_nothing(tmp_path: Path):
    """With a wrong label or the right one, the training is the same."""
    weights = np.ones(ROWS)
    weights[4] = 0
    train = training_rows(ROWS)
    labels = train.labels.copy()
    labels[4] = 1 - labels[4]
    one, other = (
        tune(tmp_path / str(i), train=t, weights=weights) for i, t in enumerate((train, replace(train, labels=labels)))
    )
    assert one.selection_loss == other.selection_loss
    assert one.selection_loss != tune(tmp_path / "even", train=train).selection_loss


@pytest.mark.parametrize("weights", [np.ones(3), -np.ones(ROWS), np.zeros(ROWS), np.full(ROWS, np.nan)])
def test_weights_that_cannot_be_are_refused(tmp_path: Path, weights: np.ndarray):
    with pytest.raises(ConfigError, match="Weights of training rows"):
        tune(tmp_path, weights=weights)
