"""``undertow layers``: what it measures is what the metrics say of the tensor."""

import shutil

import numpy as np
import pandas as pd
import pytest

from undertow.influence.store import open_influence
from undertow.metrics.agreement import agreement
from undertow.metrics.layers import normalised_ranks
from undertow.metrics.noise import noise_detection
from undertow.pipeline.layers import layer_profile
from undertow.pipeline.scorer import Scorer, Scoring

from .command import contents, undertow


@pytest.fixture(scope="module")
def copied(full, tmp_path_factory):
    """The run with planted noise, after the command."""
    folder = tmp_path_factory.mktemp("layers") / "run"
    shutil.copytree(full.folder, folder)
    outcome = undertow("layers", folder, "--estimator", "cosine")
    assert outcome.code == 0, outcome.err
    return folder, outcome


def test_table_holds_groups_layers_and_modules(copied):
    folder, _ = copied
    table = pd.read_parquet(folder / "layers.parquet")
    influence = open_influence(folder / "influence.zarr")
    assert list(table["level"].unique()) == ["group", "layer", "module"]
    modules = table[table["level"] == "module"]
    assert modules["name"].tolist() == influence["module"].values.tolist()
    assert table.loc[table["level"] == "layer", "layer"].tolist() == [0, 1]
    assert table.iloc[0]["name"] == "all"
    assert table.iloc[0]["agreement"] == pytest.approx(1)


def test_measures_are_those_of_the_tensor(copied):
    folder, _ = copied
    table = pd.read_parquet(folder / "layers.parquet").set_index("name")
    influence = open_influence(folder / "influence.zarr")
    values = influence["influence"].sel(estimator="cosine")
    planted = pd.read_parquet(folder / "harm.parquet")["planted"].to_numpy(bool)
    inside = np.flatnonzero(influence["layer"].values == 1)
    ranks = np.mean([normalised_ranks(values[m].values) for m in inside], axis=0)
    assert table.loc["layer 1", "noise_rank"] == pytest.approx(ranks[planted].mean())
    assert table.loc["layer 1", "clean_rank"] == pytest.approx(ranks[~planted].mean())
    scorer = Scorer.of_run(folder)
    layer, everything = scorer.scores([Scoring("cosine", "1"), Scoring("cosine", "all")])
    curve = noise_detection(layer.harm, planted)
    assert table.loc["layer 1", "ndr30"] == pytest.approx(curve.ndr(0.3))
    assert table.loc["layer 1", "auc"] == pytest.approx(curve.auc)
    both = agreement({"layer": layer.harm, "all": everything.harm})
    assert table.loc["layer 1", "agreement"] == pytest.approx(both.loc["layer", "all"])


def test_cancellation_is_that_of_the_run(copied):
    folder, _ = copied
    table = pd.read_parquet(folder / "layers.parquet")
    modules = table[table["level"] == "module"].set_index("name")["cancellation"]
    measured = pd.read_parquet(folder / "cancellation.parquet").query("level == 'module'").set_index("name")
    assert modules.to_dict() == pytest.approx(measured.loc[modules.index, "cancellation"].to_dict(), nan_ok=True)
    assert table.loc[table["level"] == "layer", "cancellation"].isna().all()


def test_queries_of_the_own_label_rank_by_these_alone(copied):
    folder, _ = copied
    shown = layer_profile(folder, Scoring("cosine", only=("same-label",))).table.set_index("name")
    influence = open_influence(folder / "influence.zarr")
    planted = pd.read_parquet(folder / "harm.parquet")["planted"].to_numpy(bool)
    labels, of_queries = influence["sample_label"].values, influence["query_label"].values
    name = influence["module"].values[0]
    block = influence["influence"].sel(estimator="cosine", module=name).values
    expected = [normalised_ranks(block[of_queries == labels[i]])[i] for i in np.flatnonzero(planted)]
    assert shown.loc[name, "noise_rank"] == pytest.approx(np.mean(expected))


def test_printed_and_drawn(copied):
    folder, outcome = copied
    for words in ("layer 0", "att1", "cancellation", "agreement", "12 planted rows", "layers.html"):
        assert words in outcome.said
    assert "encoder.layer" not in outcome.out
    assert "encoder.layer" in undertow("layers", folder, "--estimator", "cosine", "--modules").out
    page = (folder / "layers.html").read_text()
    assert page.count("<svg") == 5
    assert "Noise rank by layer" in page
    assert "Agreement between layers" in page


def test_without_planted_noise_or_cancellation(plain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(plain.folder, folder)
    (folder / "cancellation.parquet").unlink()
    outcome = undertow("layers", folder)
    assert outcome.code == 0, outcome.err
    assert "No noise was planted" in outcome.said
    assert "cancellation is missing" in outcome.said
    assert "NDR" not in outcome.out
    table = pd.read_parquet(folder / "layers.parquet")
    assert table[["noise_rank", "ndr30", "auc", "cancellation"]].isna().all(axis=None)
    assert table["agreement"].between(-1, 1).all()


@pytest.mark.parametrize("command", ["layers", "compare"])
@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("--estimator", "nonsense"), "It holds: tracin, cosine, datainf"),
        (("--aggregate", "nonsense"), "Known are: mean"),
        (("--only", "nonsense"), "Known are: all, correct"),
        (("--k", "-1"), "outside its range"),
    ],
)
def test_what_is_not_known_is_refused(command, told, said, full):
    before = contents(full.folder)
    outcome = undertow(command, full.folder, *told)
    assert outcome.code == 2
    assert said in outcome.complaint
    assert contents(full.folder) == before


@pytest.mark.parametrize("command", ["layers", "compare"])
def test_what_is_no_whole_run_is_refused(command, full, tmp_path):
    assert "is not a run folder" in undertow(command, tmp_path / "none").complaint
    folder = tmp_path / "run"
    shutil.copytree(full.folder, folder)
    (folder / "harm.parquet").unlink()
    assert "holds no harm.parquet" in undertow(command, folder).complaint
    shutil.rmtree(folder / "influence.zarr")
    outcome = undertow(command, folder)
    assert outcome.code == 2
    assert "no finished influence tensor" in outcome.complaint
