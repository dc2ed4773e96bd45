"""Retraining on random subsets: what is kept, and that it is what fine-tuning on the subset gives."""

import numpy as np
import pytest

import undertow
from undertow.data import encode
from undertow.errors import ConfigError, RunFolderError
from undertow.gradients.collect import predict
from undertow.pipeline import lds
from undertow.pipeline.lds import random_subsets, retrained_losses

from . import tiny
from .test_library import QUICK, classifier

SETTINGS = undertow.AuditSettings(**QUICK, max_length=32)


@pytest.fixture(scope="module")
def given():
    train = undertow.load_samples(tiny.rows(24, seed=1))
    others = [undertow.load_samples(tiny.rows(9, seed=s), classes=train.classes, role="validation") for s in (2, 3)]
    return undertow.start_in_memory(classifier(), tiny.tokenizer(), SETTINGS), train, *others


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    """Losses of three subsets and where they are."""
    folder = tmp_path_factory.mktemp("subsets")
    masks = random_subsets(24, 3, seed=1)
    return retrained_losses(*given, SETTINGS, masks, folder=folder), masks, folder


def test_subsets():
    masks = random_subsets(25, 6, share=0.5, seed=3)
    assert masks.sum(1).tolist() == [12] * 6
    assert len({mask.tobytes() for mask in masks}) == 6
    assert np.array_equal(masks[:4], random_subsets(25, 4, seed=3))
    assert not np.array_equal(masks, random_subsets(25, 6, seed=4))
    assert random_subsets(1000, 200).mean(0).std() < 0.06  # each sample is in about half of them


@pytest.mark.parametrize(("samples", "count", "share"), [(10, 0, 0.5), (10, 3, 0.0), (10, 3, 1.0), (3, 3, 0.1)])
def test_subsets_that_are_none(samples: int, count: int, share: float):
    with pytest.raises(ConfigError, match="one subset at least, each with some of the samples and not all"):
        random_subsets(samples, count, share=share)


def test_losses_are_those_of_fine_tuning_on_the_subset(given, made, tmp_path):
    losses, masks, folder = made
    start, train, selection, queries = given
    assert losses.shape == (3, 9)
    tuned = undertow.fine_tune_step(
        start, train.select(np.flatnonzero(masks[1])), selection, SETTINGS, folder=tmp_path / "checkpoints"
    )
    expected = predict(tuned.model, encode(queries, start.tokenizer, 32), pad_id=start.tokenizer.pad_token_id).loss
    assert np.array_equal(losses[1], expected)
    assert len({row.tobytes() for row in losses}) == 3
    assert {p.suffix for p in folder.iterdir()} == {".npy", ".json"}


def test_what_is_there_is_not_computed_again(given, made, monkeypatch):
    losses, masks, folder = made
    monkeypatch.setattr(lds, "fine_tune_step", lambda *a, **b: pytest.fail("a subset was trained again"))
    assert np.array_equal(retrained_losses(*given, SETTINGS, masks[::-1], folder=folder), losses[::-1])


def test_goes_on_after_an_interruption(given, made, tmp_path, monkeypatch):
    losses, masks, _ = made
    whole, trained = lds.fine_tune_step, []

    def once(*arguments, **options):
        trained.append(options["name"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(lds, "fine_tune_step", once)
    with pytest.raises(KeyboardInterrupt):
        retrained_losses(*given, SETTINGS, masks, folder=tmp_path / "subsets")
    found = retrained_losses(*given, SETTINGS, masks, folder=tmp_path / "subsets")
    assert np.array_equal(found, losses)
    assert trained == [f"subset {i} of 3" for i in (1, 2, 2, 3)]


def test_losses_of_something_else_are_refused(given, made, tmp_path):
    _, masks, folder = made
    start, train, selection, queries = given
    with pytest.raises(RunFolderError, match=r"another learning_rate\. Give another folder"):
        retrained_losses(*given, SETTINGS.model_copy(update={"learning_rate": 0.1}), masks, folder=folder)
    with pytest.raises(RunFolderError, match="another data"):
        retrained_losses(start, train, queries, selection, SETTINGS, masks, folder=folder)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="files that are not losses of subsets"):
        retrained_losses(*given, SETTINGS, masks, folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
