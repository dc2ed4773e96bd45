"""What a folder of gradients keeps: after an interruption, for another process, and never of others."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import chosen_rows
from torch import Tensor

from undertow.data.tokenize import Encoded
from undertow.errors import ConfigError
from undertow.gradients.store import MANIFEST, GradientStore

from .collecting import dense
from .stored import BATCHES, IDENTITY, LENGTHS, Passes, assert_equal, case, fill, opened, whole


class Interruption(Exception):
    """Raised in the middle of a pass."""


@pytest.mark.parametrize("batches", range(BATCHES + 1))
def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path: Path, batches: int):
    model = case()[0]
    with Passes(model, stop=batches, error=Interruption()) as first:
        if batches < BATCHES:
            with pytest.raises(Interruption):
                fill(opened(tmp_path))
        else:
            fill(opened(tmp_path))
    store, steps = opened(tmp_path), []
    assert store.finished_before == sum(first.samples)
    with Passes(model) as second:
        fill(store, advance=steps.append)
    assert len(second.samples) == BATCHES - batches
    assert steps[0] == sum(first.samples)
    assert sum(steps) == len(LENGTHS)
    assert_equal(store, whole())


@pytest.mark.parametrize("module", [0, 5, -1])
def test_interrupted_while_a_batch_is_written(tmp_path: Path, module: int, monkeypatch: pytest.MonkeyPatch):
    store, calls = opened(tmp_path), []
    commit = store._columns[module].commit

    def interrupted(batch: object) -> Tensor:
        calls.append(batch)
        if len(calls) == 3:
            raise Interruption
        return commit(batch)

    monkeypatch.setattr(store._columns[module], "commit", interrupted)
    with pytest.raises(Interruption):
        fill(store)
    again = opened(tmp_path)
    assert 0 < again.finished_before < len(LENGTHS)
    with Passes(case()[0]) as passes:
        fill(again)
    assert len(passes.samples) == BATCHES - 2
    assert_equal(again, whole())


def other_label(rows: Encoded) -> Encoded:
    changed = chosen_rows(rows, list(range(len(rows))))
    changed.labels[3] = 1 - changed.labels[3]
    return changed


def other_token(rows: Encoded) -> Encoded:
    changed = chosen_rows(rows, list(range(len(rows))))
    changed.input_ids[2] = [*changed.input_ids[2][:-1], 1 + changed.input_ids[2][-1] % 49]
    return changed


def token_types(rows: Encoded) -> Encoded:
    types = [[0] * len(ids) for ids in rows.input_ids]
    return Encoded(rows.input_ids, types, rows.labels, rows.lengths, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"model": "abd", "pad": 0}},
        {"identity": {"model": "abc"}},
        {"identity": None},
        {"dtype": torch.float64},
        {"rows": other_label},
        {"rows": other_token},
        {"rows": token_types},
        {"rows": lambda rows: chosen_rows(rows, [1, 0, 2, 3, 4, 5, 6, 7])},
    ],
    ids=["model", "key", "none", "dtype", "label", "token", "token types", "order"],
)
def test_anything_else_empties_the_folder(tmp_path: Path, change: dict[str, object]):
    fill(opened(tmp_path))
    rows = change.pop("rows", lambda rows: rows)(case()[3])
    store = opened(tmp_path, rows, **change)
    assert store.finished_before == 0
    assert all(float(values.abs().sum()) == 0 for i in range(len(store)) for values in dense(store, i))
    assert float(store.loss.abs().sum()) == 0
    with pytest.raises(ValueError, match="nothing was collected"):
        _ = store.probabilities


def test_other_modules_empty_the_folder(tmp_path: Path):
    fill(opened(tmp_path))
    _, _, plans, rows = case()
    assert GradientStore(plans[1:], rows, folder=tmp_path, identity=IDENTITY).finished_before == 0


def test_without_an_identity_nothing_is_reused(tmp_path: Path):
    for _ in range(2):
        store = opened(tmp_path, identity=None)
        assert store.finished_before == 0
        assert_equal(fill(store), whole())


FOREIGN = {
    "files": {"thesis.tex": "years of work"},
    "a manifest of something else": {MANIFEST: '{"name": "my app"}', "thesis.tex": "years of work"},
    "nothing but that": {MANIFEST: '{"name": "my app"}'},
    "a list": {MANIFEST: '["layouts"]'},
    "a manifest that cannot be read": {MANIFEST: "{half", "done": "years of work"},
    "no manifest": {"done": "years of work"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_folder_is_left_alone(tmp_path: Path, files: dict[str, str]):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"holds files that are not a gradient cache.*Give a new or empty"):
        opened(tmp_path)
    assert {item.name: item.read_text() for item in tmp_path.iterdir()} == files


def test_files_of_others_in_a_cache_are_left_alone(tmp_path: Path):
    fill(opened(tmp_path))
    (tmp_path / "notes").mkdir()
    before = sorted(item.name for item in tmp_path.iterdir())
    assert_equal(opened(tmp_path), whole())
    with pytest.raises(ConfigError, match="holds files that are not a gradient cache"):
        opened(tmp_path, identity={"model": "other"})
    assert sorted(item.name for item in tmp_path.iterdir()) == before
    assert_equal(opened(tmp_path), whole())


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"file is a file, and gradients are kept in a folder"):
        opened(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_interrupted_before_there_is_a_manifest(tmp_path: Path):
    (tmp_path / f"{MANIFEST}.tmp").write_text("{half")
    assert_equal(fill(opened(tmp_path)), whole())
    assert not (tmp_path / f"{MANIFEST}.tmp").exists()


def test_interrupted_while_a_folder_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(opened(tmp_path))
    files, unlink = len(list(tmp_path.iterdir())), Path.unlink

    def interrupted(self: Path, missing_ok: bool = False) -> None:
        if self.exists() and len(list(tmp_path.iterdir())) == files - 3:
            raise Interruption
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(Interruption):
            opened(tmp_path, identity={"model": "other"})
    # What is left is neither foreign nor taken for whole.
    assert files - 3 == len(list(tmp_path.iterdir()))
    assert_equal(fill(opened(tmp_path)), whole())


def test_the_manifest_says_what_the_gradients_depend_on(tmp_path: Path):
    opened(tmp_path)
    held = json.loads((tmp_path / MANIFEST).read_text())
    assert held["model"] == "abc"
    assert held["dtype"] == "torch.float32"
    assert len(held["layouts"]) == len(case()[2])


def test_two_processes_share_a_folder(tmp_path: Path):
    stores = [opened(tmp_path) for _ in range(2)]
    with Passes(case()[0]) as passes:
        for index, store in enumerate(stores):
            fill(store, part=(index, 2))
            assert store.finished_before == sum(passes.samples)
    assert sum(passes.samples) == len(LENGTHS)  # each sample once
    assert 0 < len(passes.samples) == BATCHES
    assert_equal(opened(tmp_path), whole())
