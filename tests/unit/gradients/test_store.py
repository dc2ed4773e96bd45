"""The gradient store: memory or files, what it reuses, its budget and its precision."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import PAD, adapted_classifier, chosen_rows, random_rows
from torch import Tensor, nn

from undertow.data.tokenize import Encoded
from undertow.errors import ConfigError, TrainingError
from undertow.gradients import layouts
from undertow.gradients.collect import collect_gradients, predictions
from undertow.gradients.layouts import Layout
from undertow.gradients.store import MANIFEST, GradientStore, stored_bytes
from undertow.models.keys import ModuleKey
from undertow.models.modules import TrackedModule

from .collecting import collected, dense, planned

IDENTITY = {"model": "abc", "pad": 0}
LENGTHS = (5, 2, 9, 5, 1, 12, 7, 3)
BUDGET = 20


@cache
def case() -> tuple[nn.Module, tuple[TrackedModule, ...], tuple[Layout, ...], Encoded]:
    """A model whose gradients are held in all three forms, in float32."""
    model, rows = adapted_classifier("bert", targets="all-linear").float(), random_rows(LENGTHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "LARGE", 60)
        patch.setattr(layouts, "SMALL", 50)
        modules, plans = planned(model, rows)
    assert {layout.form for layout in plans} == {"dense", "factored", "sparse"}
    return model, modules, plans, rows


def fill(store: GradientStore, **options: object) -> GradientStore:
    model, modules, _, rows = case()
    collect_gradients(model, modules, rows, store, pad_id=PAD, **{"token_budget": BUDGET, **options})
    return store


def opened(folder: Path | None, rows: Encoded | None = None, **options: object) -> GradientStore:
    _, _, plans, own = case()
    return GradientStore(plans, rows or own, **{"folder": folder, "identity": IDENTITY, **options})


@cache
def whole() -> GradientStore:
    """All gradients, collected at once in memory."""
    return fill(opened(None))


def arrays(store: GradientStore) -> dict[str, Tensor]:
    """Everything that a store holds, by name."""
    found = {"loss": store.loss, "probabilities": store.probabilities, "done": store.done}
    for i, key in enumerate(store.keys):
        matrix = store[i]
        for name in ("values", "inputs", "deltas"):
            if hasattr(matrix, name):
                found[f"{key.name} {name}"] = getattr(matrix, name)
    return found


def assert_equal(found: GradientStore, expected: GradientStore) -> None:
    """The same, bit for bit."""
    left, right = arrays(found), arrays(expected)
    assert set(left) == set(right)
    for name, values in right.items():
        assert torch.equal(left[name], values), name
        assert name == "done" or float(values.abs().sum()) > 0, name


class Passes:
    """Counts the forward passes of a model, and how many samples each has; may stop at one of them."""

    def __init__(self, model: nn.Module, stop: int | None = None, error: Exception | None = None) -> None:
        self.samples: list[int] = []
        self.stop, self.error = stop, error
        self.handle = model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module: nn.Module, arguments: tuple[()], named: dict[str, Tensor]) -> None:
        if len(self.samples) == self.stop and self.error is not None:
            raise self.error
        self.samples.append(len(named["input_ids"]))

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


BATCHES = 4


def test_files_hold_the_same_as_memory(tmp_path: Path):
    with Passes(case()[0]) as passes:
        store = fill(opened(tmp_path / "new" / "folder"))
    assert len(passes.samples) == BATCHES
    assert sum(passes.samples) == len(LENGTHS)
    assert_equal(store, whole())
    assert_equal(opened(tmp_path / "new" / "folder"), whole())


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


def test_budget():
    _, _, plans, rows = case()
    size = stored_bytes(plans, rows, torch.float32)
    held = sum(values.numel() * 4 for name, values in arrays(whole()).items() if " " in name)
    assert size == opened(None).bytes == held
    assert opened(None, memory=size).bytes == size
    with pytest.raises(ConfigError) as caught:
        opened(None, memory=size - 1)
    assert str(caught.value) == (
        "The gradients take 0.0 GB, more than the budget of 0.0 GB, and no folder was given to keep them in. Pass a "
        "folder, a larger memory budget, fewer modules, or --project 16."
    )
    assert stored_bytes(plans, rows, torch.float64) == 2 * size
    assert stored_bytes(plans, rows, torch.bfloat16) == size / 2


def test_files_need_no_budget(tmp_path: Path):
    assert_equal(fill(opened(tmp_path, memory=0)), whole())


@pytest.mark.parametrize(
    ("dtype", "relative", "smallest"), [(torch.bfloat16, 2.0**-8, 0.0), (torch.float16, 2.0**-11, 2.0**-25)]
)
def test_narrow_gradients(tmp_path: Path, dtype: torch.dtype, relative: float, smallest: float):
    store = fill(opened(tmp_path, dtype=dtype))
    for name, values in arrays(whole()).items():
        found = arrays(store)[name]
        if " " not in name:
            assert torch.equal(found, values), name  # losses and probabilities stay as they are
            continue
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), values, rtol=relative, atol=smallest, msg=name)
        assert not torch.equal(found.float(), values)
    for i in range(len(store)):
        wide = dense(whole(), i)
        assert dense(store, i).dtype == torch.float32
        scale = float(wide.abs().max())
        torch.testing.assert_close(dense(store, i), wide, rtol=0, atol=12 * 3 * relative * scale)


def test_float64_is_kept():
    model, rows = adapted_classifier("bert"), random_rows((3, 4))
    store = collected(model, rows, dtype=torch.float64)
    assert dense(store, 0).dtype == torch.float64


def test_gradients_that_overflow_are_named(tmp_path: Path):
    model, rows = adapted_classifier("bert").float(), random_rows((3, 4, 5, 6))
    modules, plans = planned(model, rows)
    head = model.get_submodule("base_model.model.classifier.modules_to_save.default")
    with torch.no_grad():
        head.weight.mul_(1e9)
    # Samples that the model is sure of have no gradient, and those it is surely wrong about a huge one.
    store = GradientStore(plans, rows, folder=tmp_path, dtype=torch.float16, identity=IDENTITY)
    plain = GradientStore(plans, rows)
    collect_gradients(model, modules, rows, plain, pad_id=PAD)
    bad = [i for i in range(4) if any(float(dense(plain, m)[i].abs().max()) > 65_504 for m in range(len(plans)))]
    assert 0 < len(bad) < 4
    assert np.isfinite(predictions(plain).loss).all()
    shown = ", ".join(map(str, bad))
    message = rf"Gradients of {len(bad)} of 4 samples are not finite \(positions {shown}\), .*float16 overflows"
    for _ in range(2):  # the second time from what is kept
        with pytest.raises(TrainingError, match=message):
            collect_gradients(model, modules, rows, store, pad_id=PAD)
        store = GradientStore(plans, rows, folder=tmp_path, dtype=torch.float16, identity=IDENTITY)
        assert store.finished_before == 4


@pytest.mark.parametrize("samples", [1, 4])
def test_a_store_without_arrays_on_disk(tmp_path: Path, samples: int):
    # A text of nothing but the padding token has no row of word embeddings at all.
    key = ModuleKey("words", None, "words", "weight", "embedding", 100)
    layout = Layout(key, "sparse", "embedding", 50, 2, padding=PAD)
    rows = random_rows((3,) * samples)
    rows.input_ids[:] = [[PAD] * 3] * samples
    store = GradientStore([layout], rows, folder=tmp_path, identity=IDENTITY)
    assert store.bytes >= 0
    assert dense(store, 0).shape == (samples, 100)
    assert store[0].squares.tolist() == [0.0] * samples
