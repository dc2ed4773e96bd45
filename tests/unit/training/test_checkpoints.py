"""Recorded checkpoints: what they hold is checked against the equation of the optimiser itself."""

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from tiny_models import tiny_classifier
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from undertow.errors import ConfigError, ModelError, RunFolderError
from undertow.training.checkpoints import CheckpointRecorder, Recorded, recorded_checkpoints

from .tiny_training import EPOCHS, STEPS, Interruption, after, tiny_model, training_rows, tune


class Witness(TrainerCallback):
    """Keeps what a recorder should find, in its own way, and may interrupt the training."""

    def __init__(self, stop: int = -1) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.logged_rates: dict[int, float] = {}
        self.wrapped = False
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any) -> None:
        self.weights[state.global_step] = trainable(model)
        self.wrapped = isinstance(optimizer, AcceleratedOptimizer)
        if state.global_step == self.stop:
            raise Interruption

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, float], **_: Any) -> None:
        if "learning_rate" in logs:
            self.logged_rates[state.global_step] = logs["learning_rate"]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def own_trainer(
    tmp_path: Path, callbacks: Sequence[TrainerCallback], optimizer: type | None = None, **options: Any
) -> Trainer:
    """A user's own Trainer: a whole model but for its embeddings, on plain dictionaries."""
    model = tiny_classifier("bert").float()
    model.get_input_embeddings().requires_grad_(False)
    rows = training_rows()
    data = [
        {"input_ids": ids[:3], "labels": int(label)} for ids, label in zip(rows.input_ids, rows.labels, strict=True)
    ]
    arguments = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": EPOCHS,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        **options,
    }
    if optimizer is not None:
        arguments["optim"] = optimizer
    made = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "own"), use_cpu=True, report_to="none", disable_tqdm=True, **arguments),
        train_dataset=data,
        data_collator=lambda items: {name: torch.tensor([item[name] for item in items]) for name in items[0]},
        callbacks=list(callbacks),
    )
    made.remove_callback(PrinterCallback)
    return made


def assert_adam_leads_on(before: Recorded, now: Recorded) -> None:
    """The weights of a step are those before it, moved as AdamW would with the moments and rate of this step."""
    old, new = before.weights(), now.weights()
    assert old.keys() == new.keys()
    for name in new:
        state = now.optimizer_state(name)
        first, second = state.betas
        m = state.exp_avg.double() / (1 - first**state.step)
        v = state.exp_avg_sq.double() / (1 - second**state.step)
        decayed = old[name].double() * (1 - state.learning_rate * state.weight_decay)
        expected = decayed - state.learning_rate * m / (v.sqrt() + state.eps)
        torch.testing.assert_close(new[name].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_records_of_a_users_trainer_follow_adam(tmp_path: Path, accumulate: int):
    witness = Witness()
    callbacks = [CheckpointRecorder(tmp_path / "record", every=1), witness]
    trainer = own_trainer(tmp_path, callbacks, gradient_accumulation_steps=accumulate)
    trainer.train()
    records = recorded_checkpoints(tmp_path / "record")
    steps = EPOCHS * STEPS // accumulate
    assert [r.step for r in records] == list(range(1, steps + 1))
    assert [r.epoch for r in records] == pytest.approx([EPOCHS * s / steps for s in range(1, steps + 1)])
    assert witness.wrapped
    assert len({r.learning_rate for r in records}) > steps / 2
    for record in records:
        assert record.learning_rate == pytest.approx(witness.logged_rates[record.step], rel=1e-12)
        assert record.optimizer == "AdamW"
        assert_same(record.weights(), witness.weights[record.step])
        assert record.names == tuple(witness.weights[record.step])
        assert not any("word_embeddings" in name for name in record.names)
    for before, now in pairwise(records):
        assert_adam_leads_on(before, now)
    decays = {now.optimizer_state(name).weight_decay for now in records[:1] for name in now.names}
    assert decays == {0.0, 0.1}  # the mapping from groups to names is not trivial
    assert records[0].optimizer_state(records[0].names[0]).step == 1


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_every_so_many_steps_and_every_epoch(tmp_path: Path):
    callbacks = [CheckpointRecorder(tmp_path / "steps", every=5), CheckpointRecorder(str(tmp_path / "epochs"))]
    own_trainer(tmp_path, callbacks).train()
    assert [r.step for r in recorded_checkpoints(tmp_path / "steps")] == [5, 10, 15]
    epochs = recorded_checkpoints(str(tmp_path / "epochs"))
    assert [r.step for r in epochs] == [6, 12, 18]
    assert [r.epoch for r in epochs] == [1, 2, 3]


def test_the_last_epoch_may_be_cut_short(tmp_path: Path):
    own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record")], max_steps=8).train()
    assert [r.step for r in recorded_checkpoints(tmp_path / "record")] == [6, 8]


def test_fine_tuning_records_every_epoch(tmp_path: Path):
    model = tiny_model()
    untouched = {n: p.detach().clone() for n, p in model.named_parameters()}
    tuned = tune(tmp_path / "folder", model=model, record=tmp_path / "record")
    records = recorded_checkpoints(tmp_path / "record")
    assert [r.step for r in records] == [STEPS * e for e in range(1, EPOCHS + 1)]
    names = [n for n, p in tuned.model.named_parameters() if p.requires_grad]
    assert any("lora_A" in n for n in names)
    assert any("classifier" in n for n in names)
    best = records[tuned.best_epoch - 1]
    assert list(best.names) == names
    assert_same(best.weights(), trainable(tuned.model))
    assert not torch.equal(records[0].weights()[names[0]], untouched[names[0]])
    # A cosine with a warm-up of two steps, at the last step of each epoch.
    expected = [0.02 * 0.5 * (1 + np.cos(np.pi * (STEPS * e - 1 - 2) / (EPOCHS * STEPS - 2))) for e in (1, 2, 3)]
    assert [r.learning_rate for r in records] == pytest.approx(expected)
    rates = [min(s / 2, 0.5 * (1 + np.cos(np.pi * (s - 2) / (EPOCHS * STEPS - 2)))) for s in range(EPOCHS * STEPS)]
    means = 0.02 * np.array(rates).reshape(EPOCHS, STEPS).mean(1)
    assert [r.mean_learning_rate for r in records] == pytest.approx(means)
    assert records[1].optimizer_state(names[0]).step == 2 * STEPS


def test_fine_tuning_records_nothing_unless_told(tmp_path: Path):
    tune(tmp_path, epochs=1)
    assert not list(tmp_path.rglob("step-*"))


@pytest.fixture(scope="module")
def recorded_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tune(folder / "folder", record=folder / "record")
    return folder / "record"


@pytest.mark.parametrize("steps", [STEPS - 1, STEPS + 2, EPOCHS * STEPS])
def test_an_interrupted_fine_tuning_has_each_checkpoint_once(recorded_whole: Path, tmp_path: Path, steps: int):
    with pytest.raises(Interruption):
        tune(tmp_path / "folder", record=tmp_path / "record", advance=after(steps))
    tune(tmp_path / "folder", record=tmp_path / "record")
    assert_same_records(tmp_path / "record", recorded_whole)


def test_steps_taken_again_are_recorded_once(tmp_path: Path):
    # Killed after 9 steps with records of 4 and 8, the Trainer goes on from 6: 8 is taken a second time.
    options = {"save_strategy": "steps", "save_steps": 6}
    with pytest.raises(Interruption):
        own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=4), Witness(stop=9)], **options).train()
    assert [r.step for r in recorded_checkpoints(tmp_path / "record")] == [4, 8]
    stale = recorded_checkpoints(tmp_path / "record")[-1].path / "weights.safetensors"
    stale.write_bytes(stale.read_bytes()[:-1] + b"\x7f")
    resumed = own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=4)], **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "own" / "checkpoint-6"))
    own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "whole", every=4)]).train()
    assert_same_records(tmp_path / "record", tmp_path / "whole")


def assert_same_records(first: Path, second: Path) -> None:
    found, expected = recorded_checkpoints(first), recorded_checkpoints(second)
    assert [r.step for r in found] == [r.step for r in expected]
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())
    assert (first / "rates.jsonl").read_text() == (second / "rates.jsonl").read_text()
    for a, b in zip(found, expected, strict=True):
        assert_same(a.weights(), b.weights())
        assert_same(load_file(a.path / "moments.safetensors"), load_file(b.path / "moments.safetensors"))
        assert json.loads((a.path / "record.json").read_text()) == json.loads((b.path / "record.json").read_text())


def test_a_new_training_replaces_one_that_never_ended(tmp_path: Path):
    with pytest.raises(Interruption):
        own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=2), Witness(stop=9)]).train()
    own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=2)], max_steps=5).train()
    assert [r.step for r in recorded_checkpoints(tmp_path / "record")] == [2, 4]


def test_the_record_of_a_whole_training_is_not_overwritten(tmp_path: Path):
    own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=2)], max_steps=4).train()
    with pytest.raises(RunFolderError, match="holds the record of a training that came to its end"):
        own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=2)]).train()
    assert [r.step for r in recorded_checkpoints(tmp_path / "record")] == [2, 4]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    own_trainer(folder, [CheckpointRecorder(folder / "record", every=1)], max_steps=3).train()
    return folder / "record"


def test_loading_swaps_weights_in_and_gives_the_models_own_back(recorded: Path):
    model = tiny_classifier("bert", seed=7).float()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    objects = [id(p) for p in model.parameters()]
    batch = torch.tensor([[3, 4, 5]])
    outputs = []
    for record in recorded_checkpoints(recorded):
        with record.load_into(model):
            assert_same({n: p.detach() for n, p in model.named_parameters() if n in record.names}, record.weights())
            assert [id(p) for p in model.parameters()] == objects
            outputs.append(model(batch).logits)
        assert_same(dict(model.named_parameters()), before)
    assert not torch.equal(outputs[0], outputs[1])


def test_the_models_own_weights_come_back_after_an_error(recorded: Path):
    model = tiny_classifier("bert", seed=7).float()
    before = trainable(model)
    record = recorded_checkpoints(recorded)[0]
    with pytest.raises(Interruption), record.load_into(model):
        interrupt_after_zeroing(model.classifier.bias)
    assert_same(trainable(model), before)
    # What was written into the weights while they were in the model does not reach the record.
    assert record.weights()["classifier.bias"].any()


def interrupt_after_zeroing(parameter: nn.Parameter) -> None:
    torch.nn.init.zeros_(parameter)
    raise Interruption


def test_weights_take_the_models_dtype(recorded: Path):
    model, record = tiny_classifier("bert", seed=7), recorded_checkpoints(recorded)[0]
    assert next(model.parameters()).dtype == torch.float64
    with record.load_into(model):
        assert torch.equal(model.classifier.weight, record.weights()["classifier.weight"].double())
    assert model.classifier.weight.dtype == torch.float64


def test_models_that_were_not_trained_here(recorded: Path):
    record = recorded_checkpoints(recorded)[0]
    with (
        pytest.raises(ModelError, match="parameters that the model does not have, bert"),
        record.load_into(tiny_model()),
    ):
        pass
    other = tiny_classifier("bert", classes=3).float()
    before = trainable(other)
    expected = r"classifier.weight in shape \(2, 16\), .* in \(3, 16\)"
    with pytest.raises(ModelError, match=expected), record.load_into(other):
        pass
    assert_same(trainable(other), before)


@pytest.mark.parametrize(
    "harm", ["no record", "no weights", "no moments", "cut record", "cut weights", "other weights"]
)
def test_what_is_unfinished_is_left_out(recorded: Path, tmp_path: Path, harm: str):
    folder = tmp_path / "record"
    shutil.copytree(recorded, folder)
    broken = folder / "step-00002"
    kind, what = harm.split()
    file = broken / {"record": "record.json", "weights": "weights.safetensors", "moments": "moments.safetensors"}[what]
    if kind == "no":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        shutil.copy(broken / "moments.safetensors", file)
    shutil.copytree(folder / "step-00001", folder / "step-00004.part")
    (folder / "step-x").mkdir()
    assert [r.step for r in recorded_checkpoints(folder)] == [1, 3]


def test_a_kill_while_writing_leaves_no_half(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from undertow.training import checkpoints

    def killed(*_: Any, **__: Any) -> None:
        raise Interruption

    recorder = CheckpointRecorder(tmp_path / "record", every=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.json, "dumps", killed)
        with pytest.raises(Interruption):
            own_trainer(tmp_path, [recorder], max_steps=2).train()
    assert recorded_checkpoints(tmp_path / "record") == ()
    own_trainer(tmp_path, [recorder], max_steps=2).train()
    assert sorted(p.name for p in (tmp_path / "record").iterdir()) == [
        "finished",
        "rates.jsonl",
        "step-00001",
        "step-00002",
    ]


def test_steps_are_sorted_as_numbers(recorded: Path, tmp_path: Path):
    for step in (100_000, 99_999, 7):
        target = tmp_path / f"step-{step:05d}"
        shutil.copytree(recorded / "step-00001", target)
        about = json.loads((target / "record.json").read_text()) | {"step": step}
        (target / "record.json").write_text(json.dumps(about))
    assert [r.step for r in recorded_checkpoints(tmp_path)] == [7, 99_999, 100_000]


def test_an_optimiser_without_moments(tmp_path: Path):
    own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=1)], "sgd", max_steps=2).train()
    _, record = recorded_checkpoints(tmp_path / "record")
    assert record.optimizer == "SGD"
    assert record.weights()
    assert record.learning_rate > 0
    with pytest.raises(ConfigError, match=r"no moments for classifier.bias: it was trained with SGD"):
        record.optimizer_state("classifier.bias")


def test_a_parameter_that_was_not_recorded(recorded: Path):
    with pytest.raises(ConfigError, match=r"records no parameter 'classifier.bia'. It has"):
        recorded_checkpoints(recorded)[0].optimizer_state("classifier.bia")


def test_several_learning_rates(tmp_path: Path):
    trainer = own_trainer(tmp_path, [CheckpointRecorder(tmp_path / "record", every=1)], max_steps=2)
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    head = [p for n, p in named.items() if n.startswith("classifier")]
    rest = [p for n, p in named.items() if not n.startswith("classifier")]
    trainer.optimizer = torch.optim.Adam([{"params": rest, "lr": 1e-3}, {"params": head, "lr": 1e-2}])
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, factor=1.0)
    trainer.train()
    record = recorded_checkpoints(tmp_path / "record")[-1]
    assert record.learning_rates == {n: 1e-2 if n.startswith("classifier") else 1e-3 for n in named}
    with pytest.raises(ConfigError, match=r"records 2 learning rates \(0\.001, 0\.01\)"):
        _ = record.learning_rate
    with pytest.raises(ConfigError, match="Read mean_learning_rates"):
        _ = record.mean_learning_rate


def test_no_folder(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"There is no folder .*nowhere with recorded checkpoints"):
        recorded_checkpoints(tmp_path / "nowhere")
    assert recorded_checkpoints(tmp_path) == ()


@pytest.mark.parametrize("every", ["step", 0, -3, True])
def test_every_is_checked(tmp_path: Path, every: str | int):
    with pytest.raises(ConfigError, match=f"every is {every!r}"):
        CheckpointRecorder(tmp_path, every=every)
