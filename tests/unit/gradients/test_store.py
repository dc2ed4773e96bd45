"""The gradient store: memory or files, its budget and its precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import PAD, adapted_classifier, random_rows

from undertow.errors import ConfigError, TrainingError
from undertow.gradients.collect import collect_gradients, predictions
from undertow.gradients.layouts import Layout
from undertow.gradients.store import GradientStore, stored_bytes
from undertow.models.keys import ModuleKey

from .collecting import collected, dense, planned
from .stored import BATCHES, IDENTITY, LENGTHS, Passes, arrays, assert_equal, case, fill, opened, whole


def test_files_hold_the_same_as_memory(tmp_path: Path):
    with Passes(case()[0]) as passes:
        store = fill(opened(tmp_path / "new" / "folder"))
    assert len(passes.samples) == BATCHES
    assert sum(passes.samples) == len(LENGTHS)
    assert_equal(store, whole())
    assert_equal(opened(tmp_path / "new" / "folder"), whole())


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
