"""The cancellation that a run leaves: what is in it, what is left out, and that it is of this run."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import undertow
from undertow.gradients import layouts
from undertow.gradients.collect import collect_gradients
from undertow.gradients.layouts import plan_layouts
from undertow.gradients.store import GradientStore
from undertow.metrics.cancellation import CANCELLATION_COLUMNS
from undertow.models.modules import tracked_modules
from undertow.pipeline import cancellation as stage
from undertow.pipeline.cancellation import cancellation_table
from undertow.pipeline.influence import Places

from . import tiny
from .command import undertow as command
from .conftest import quick, run
from .test_library import classifier, with_adapter


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(0)
    train = undertow.load_samples(tiny.rows(40, seed=1))
    queries = undertow.load_samples(tiny.rows(12, seed=2), classes=train.classes, role="validation")
    return with_adapter(classifier()), tiny.tokenizer(), train, queries


def collected(model, samples, **options) -> GradientStore:
    encoded = undertow.data.encode(samples, tiny.tokenizer(), 64)
    modules = tracked_modules(model, options.pop("track", ("auto",)))
    store = GradientStore(plan_layouts(model, modules, encoded, pad_id=0, **options), encoded)
    collect_gradients(model, modules, encoded, store, pad_id=0)
    return store


def by_the_formula(rows: torch.Tensor) -> dict[str, int | float]:
    """Of dense gradients [n, d]."""
    absolute, size = rows.abs().sum(0), rows.sum(0).abs()
    touched = absolute > 0
    ratios = absolute[touched] / size[touched]
    return {
        "weights": int(touched.sum()),
        "untouched": int((~touched).sum()),
        "cancellation": float(absolute.sum() / size.sum()),
        "mean": float(ratios.mean()),
        "std": float(ratios.std(correction=0)),
        "median": float(np.median(ratios)),
        "min": float(ratios.min()),
        "max": float(ratios.max()),
        "infinite": 0.0,
    }


def test_every_module_and_group_by_the_formula(given):
    store = collected(given[0], given[2])
    table = cancellation_table(store)
    assert table["level"].tolist() == ["module"] * len(store) + ["group"] * 5
    assert table.columns.tolist() == ["level", "name", "layer", "modules", "left_out", "why", *CANCELLATION_COLUMNS]
    rows = [store[m].rows(slice(0, 40)).double() for m in range(len(store))]
    names, groups = [k.name for k in store.keys], {"embedding": "embedding", "head": "head"}
    for m, name in enumerate(names):
        found = table[table["name"] == name].iloc[0]
        assert found[list(CANCELLATION_COLUMNS)].to_dict() == pytest.approx(by_the_formula(rows[m]), rel=1e-4)
        assert (found["modules"], found["left_out"], found["why"]) == (1, 0, "")
    for group, kind in groups.items():
        chosen = [r for r, k in zip(rows, store.keys, strict=True) if k.kind == kind]
        found = table[(table["level"] == "group") & (table["name"] == group)].iloc[0]
        expected = by_the_formula(torch.cat(chosen, dim=1))
        assert found[list(CANCELLATION_COLUMNS)].to_dict() == pytest.approx(expected, rel=1e-4)
        assert found["modules"] == len(chosen)
    trained = [r for r, k in zip(rows, store.keys, strict=True) if k.trained]
    found = table[(table["level"] == "group") & (table["name"] == "all")].iloc[0]
    assert found["cancellation"] == pytest.approx(by_the_formula(torch.cat(trained, dim=1))["cancellation"], rel=1e-6)


def test_a_larger_set_of_samples_that_agree_cancels_no_more(given):
    """Twice the same samples: every sum doubles, and no ratio changes."""
    twice = given[2].select(np.repeat(np.arange(40), 2))
    once, both = (cancellation_table(collected(given[0], samples)) for samples in (given[2], twice))
    pd.testing.assert_frame_equal(once, both, rtol=1e-4)


def test_costly_layers_are_left_out_and_named(given, monkeypatch):
    monkeypatch.setattr(layouts, "LARGE", 60)
    monkeypatch.setattr(layouts, "SMALL", 50)
    store = collected(classifier(), given[2], track=("linear", "norm"))
    whole = cancellation_table(store)
    assert (whole["left_out"] == 0).all()
    monkeypatch.setattr(stage, "AFFORDABLE", 1000)
    said = []
    reporter = type("Said", (stage.Silent,), {"say": lambda self, text: said.append(text)})()
    table = cancellation_table(store, "auto", reporter)
    factored = {layout.key.name for m, layout in enumerate(store.layouts) if not stage.is_cheap(store[m])}
    modules = table[table["level"] == "module"].set_index("name")
    assert set(modules.index[modules["left_out"] == 1]) == factored
    assert 0 < len(factored) < len(modules)
    assert modules.loc[sorted(factored), "cancellation"].isna().all()
    assert set(modules.loc[sorted(factored), "why"]) == {"factored"}
    kept = modules.index[modules["left_out"] == 0]
    pd.testing.assert_frame_equal(modules.loc[kept], whole.set_index("name").loc[kept])
    group = table[(table["level"] == "group") & (table["name"] == "all")].iloc[0]
    assert (group["modules"], group["left_out"]) == (len(kept), len(factored))
    assert said == [
        f"Cancellation leaves out {len(factored)} of {len(modules)} modules (factored; --cancellation all takes in the "
        "factored ones)."
    ]
    pd.testing.assert_frame_equal(cancellation_table(store, "all"), whole)


def test_projected_gradients_are_not_those_of_weights(given):
    table = cancellation_table(collected(classifier(), given[2], track=("linear",), project=2), "all")
    assert (table["why"] == "projected").all()
    assert table["cancellation"].isna().all()
    assert (table["weights"] == 0).all()


def test_beside_the_tensor(given, tmp_path, monkeypatch):
    settings = undertow.AuditSettings(estimators=("tracin",), max_length=64)
    places = Places(tensor=tmp_path / "influence.zarr")
    undertow.influence_step(*given, settings, places=places)
    path = tmp_path / "cancellation.parquet"
    pd.testing.assert_frame_equal(
        pd.read_parquet(path), cancellation_table(collected(given[0], given[2])), rtol=1e-4, check_flags=False
    )
    before = path.read_bytes()
    computed = []
    whole = stage.cancellation_table
    monkeypatch.setattr(stage, "cancellation_table", lambda *a: computed.append(1) or whole(*a))
    undertow.influence_step(*given, settings, places=places)  # the same once more
    assert (computed, path.read_bytes()) == ([], before)
    path.write_bytes(before[:100])  # cut short
    undertow.influence_step(*given, settings, places=places)
    assert (len(computed), path.read_bytes()) == (1, before)
    undertow.influence_step(*given, settings.model_copy(update={"max_length": 5}), places=places)
    assert len(computed) == 2
    assert path.read_bytes() != before
    assert {p.name for p in tmp_path.iterdir()} == {"influence.zarr", "cancellation.parquet"}


def test_none_leaves_nothing(place, tmp_path):
    made = run(tmp_path / "run", *quick(place), "--cancellation", "none")
    assert not (made.folder / "cancellation.parquet").exists()
    told = json.loads((made.folder / "run.json").read_text())
    assert told["configuration"]["cancellation"] == "none"


def test_another_word_is_refused(place, tmp_path):
    outcome = command("audit", *quick(place), "--cancellation", "some", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "--cancellation some is not accepted. It is to be 'auto', 'all' or 'none'" in outcome.complaint
