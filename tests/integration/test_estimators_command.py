"""Every estimator and every choice of what is tracked, through the command."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from undertow.influence.names import ESTIMATOR_NAMES, ESTIMATOR_NEEDS

from . import tiny
from .conftest import quick, run

CLASSES = ("shrug", "praise", "blame")
HERE = [name for name in ESTIMATOR_NAMES if name != "ekfac" or find_spec("kronfluence")]


def opened(folder):
    with xr.open_zarr(folder / "influence.zarr", chunks=None) as dataset:
        return dataset.load()


@pytest.fixture(scope="module")
def every(place, tmp_path_factory):
    """Fine-tuned in the audit, and followed."""
    more = ("--finetune", "always", "--epochs", 2, "--plant", 0.2, "--estimator", ",".join(HERE))
    return run(tmp_path_factory.mktemp("every") / "run", *quick(place), *more)


def test_every_estimator_in_one_command(every):
    influence = opened(every.folder)
    assert influence["estimator"].values.tolist() == HERE
    kinds, trained = influence["kind"].values, influence["trained"].values
    for e, name in enumerate(HERE):
        covered = influence["covered"].values[e]
        if "embedding" in ESTIMATOR_NEEDS[name]:
            expected = kinds == "embedding"
        else:
            expected = trained if {"optimiser", "model"} & ESTIMATOR_NEEDS[name] else np.ones(10, dtype=bool)
        assert covered.tolist() == expected.tolist(), name
        values = influence["influence"].values[e]
        assert np.isfinite(values[covered]).all()
        assert np.isnan(values[~covered]).all()
        assert values[covered].std(axis=(1, 2)).min() > 0, name
    results = json.loads((every.folder / "run.json").read_text())["results"]
    assert {d["name"] for d in results["detections"]} >= {"audit", *HERE[1:]}
    assert (every.folder / "recorded" / "step-00008").is_dir()
    assert not (every.folder / "gradients").exists()
    assert not (every.folder / "scratch").exists()


# What is tracked of a classifier that was trained whole.
TRACKED = {
    "head": {"head"},
    "norm": {"norm"},
    "embedding": {"embedding"},
    "linear,norm": {"attention", "mlp", "norm"},
    "auto": {"attention", "mlp", "norm", "embedding", "head"},
}


@pytest.mark.parametrize("track", TRACKED)
def test_what_is_tracked(track, place, tmp_path):
    command = [*quick(place)[:6], "--finetune", "never", "--track", track]
    command[1] = place("classifier")
    made = run(tmp_path / "run", *command)
    assert set(opened(made.folder)["kind"].values) == TRACKED[track]


OPTIONS = {
    "projected": ("--project", 3),
    "bfloat16": ("--gradient-dtype", "bfloat16"),
    "float16": ("--gradient-dtype", "float16"),
    "by pattern": ("--layers", r"re:layer\.1\..*(query|value)"),
    "word embeddings": ("--layers", "embedding", "--estimator", "cosine,tracin-we-k-pair"),
    "one name": ("--layers", "classifier"),
    "two groups": ("--layers", "mlp,norm", "--estimator", "tracin"),
}


@pytest.fixture(scope="module")
def classifier_run(place, tmp_path_factory):
    command = ("--model", place("classifier"), *quick(place)[2:6], "--finetune", "never")
    return run(tmp_path_factory.mktemp("classifier") / "run", *command, "--estimator", "cosine,tracin")


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_what_counts(name, classifier_run, tmp_path):
    made = run(tmp_path / "run", *classifier_run.arguments[:-2], *OPTIONS[name])
    plain, found = opened(classifier_run.folder), opened(made.folder)
    table = pd.read_parquet(made.folder / "harm.parquet")
    first = str(found["estimator"].values[0])
    exact, close = (d["influence"].sel(estimator=first).values for d in (plain, found))
    if "--layers" not in OPTIONS[name]:
        assert not np.array_equal(close, exact)
        correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(close, exact, strict=True)]
        assert min(correlation) > (0.2 if name == "projected" else 0.999)
        return
    assert np.array_equal(close, exact)
    chosen = {
        "by pattern": [n for n in found["module"].values if "layer.1." in n and n.endswith(("query", "value"))],
        "word embeddings": ["bert.embeddings.word_embeddings"],
        "one name": ["classifier"],
        "two groups": found["module"].values[np.isin(found["kind"].values, ("mlp", "norm"))].tolist(),
    }[name]
    assert len(chosen) == {"by pattern": 2, "two groups": 9}.get(name, 1)
    ranks = [exact_ranks(found["influence"].sel(estimator=first, module=m).values) for m in chosen]
    assert table["harm"].tolist() == (-np.sum(ranks, axis=(0, 1))).tolist()


def exact_ranks(values):
    """How many samples lie below, [query, sample]."""
    return (values[:, None, :] < values[:, :, None]).sum(-1)


def test_a_model_whose_linear_maps_are_transposed(place, tmp_path):
    command = [*quick(place), "--track", "auto,linear,norm", "--estimator", "tracin,datainf"]
    command[1] = tiny.save_gpt2(tmp_path / "model")
    made = run(tmp_path / "run", *command)
    influence = opened(made.folder)
    assert {"c_attn", "query_key_value"} & set(influence["projection"].values)
    assert np.isfinite(influence["influence"].values[influence["covered"].values]).all()
    assert "Warning" not in made.outcome.err


# What cannot be computed.


UNDEFINED = {
    "unknown estimator": (("--estimator", "tracinn"), ["--estimator got 'tracinn'", "tracin, cosine, datainf"]),
    "unknown part": (("--track", "lora,heads"), ["--track got 'heads'", "lora, head, linear, norm, embedding"]),
    "unknown keep": (("--keep", "all"), ["--keep all is not accepted", "'tensor', 'groups' or 'scores'"]),
    "unknown precision": (("--gradient-dtype", "int8"), ["--gradient-dtype int8 is not accepted", "'bfloat16'"]),
    "bad pattern": (("--layers", "re:["), ["--layers re:[ is not a regular expression"]),
    "pattern without a module": (("--layers", "re:layer.7"), ["--layers re:layer.7 selects none of the 10"]),
    "no projection": (("--project", 0), ["--project 0 is not accepted", "greater than or equal to 1"]),
    "words are not tracked": (
        ("--estimator", "tracin-we", "--track", "lora"),
        ["tracin-we is defined on none of the 8 tracked modules", "embedding", "--track"],
    ),
    "words do not decide": (
        ("--estimator", "tracin-we", "--layers", "att1"),
        ["tracin-we is not defined on 4 of the chosen modules", "only on: bert.embeddings.word_embeddings", "--layers"],
    ),
    "no optimiser has it": (
        ("--estimator", "less", "--layers", "embedding"),
        ["less is not defined on 1 of the chosen modules", "--layers"],
    ),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_is_not_defined(name, refused_early):
    options, expected = UNDEFINED[name]
    said = refused_early(*options)
    for words in expected:
        assert words in said


def test_an_estimator_beside_the_first_may_be_defined_elsewhere(place, tmp_path):
    """What does not decide is stored, and left out where it is compared on the layers that decide."""
    more = ("--estimator", "cosine,tracin-we", "--layers", "att1", "--plant", 0.2)
    made = run(tmp_path / "run", *quick(place), *more)
    results = json.loads((made.folder / "run.json").read_text())["results"]
    names = [d["name"] for d in results["detections"]]
    assert "audit" in names
    assert "tracin-we" not in names
    assert np.isfinite(opened(made.folder)["influence"].sel(estimator="tracin-we").values).any()
