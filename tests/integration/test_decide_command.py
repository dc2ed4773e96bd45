"""Acting on the rows of an audit, and undoing it."""

import json

import numpy as np
import pandas as pd
import pytest

from undertow.pipeline.decide import decide, restore

from . import tiny
from .command import undertow
from .conftest import QUICK, run

ROWS = 520


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources, of which one has a third of its labels wrong."""
    folder = tmp_path_factory.mktemp("sources")
    table = tiny.rows(ROWS, seed=21, classes=("praise", "blame"), words=(0, 1))
    table["source"] = np.where(np.arange(ROWS) // 2 % 2, "careless", "careful")
    draw = np.random.default_rng(0)
    bad = (table["source"] == "careless") & (draw.random(ROWS) < 0.33)
    table["label"] = np.where(bad, table["label"].map({"praise": "blame", "blame": "praise"}), table["label"])
    table["note"] = [None if i % 7 else f"{i}, “quoted”" for i in range(ROWS)]
    tiny.write(table, folder / "train.jsonl")
    tiny.write(tiny.rows(120, seed=22, classes=("praise", "blame"), words=(0, 1)), folder / "validation.csv")
    return folder, bad.to_numpy()


@pytest.fixture(scope="module")
def made(place, data, tmp_path_factory):
    folder, _ = data
    files = ("--train", folder / "train.jsonl", "--validation", folder / "validation.csv")
    more = (*QUICK, "--epochs", 4, "--learning-rate", 0.03)
    return run(tmp_path_factory.mktemp("runs") / "sources", "--model", place("bert"), *files, *more)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("action", ["drop", "relabel", "weight", "review"])
def test_every_action_in_every_format_can_be_undone(made, data, tmp_path, action, suffix):
    folder, bad = data
    before = pd.DataFrame(tiny.read_jsonl(folder / "train.jsonl"))
    harm = pd.read_parquet(made.folder / "harm.parquet")
    out, back = tmp_path / f"out.{suffix}", tmp_path / f"back.{suffix}"
    outcome = undertow("decide", made.folder, "--action", action, "--out", out)
    assert outcome.code == 0, outcome.err
    read = {"csv": pd.read_csv, "tsv": lambda p: pd.read_csv(p, sep="\t"), "parquet": pd.read_parquet}
    table = read[suffix](out) if suffix in read else pd.DataFrame(tiny.read_jsonl(out))
    flagged, removed = (harm[name].to_numpy(bool) for name in ("flagged", "removed"))
    assert len(table) == ROWS - (removed.sum() if action == "drop" else 0)
    acted = table["undertow_action"].value_counts()
    if action == "drop":
        assert acted.get("review", 0) == flagged.sum() - removed.sum()
    if action == "relabel":
        changed = (table["label"] != before["label"]).to_numpy()
        assert 0 < changed.sum() <= flagged.sum()
        assert bad[changed].mean() > 0.7
        assert (table["undertow_action"] == "relabel").sum() == changed.sum()
    if action == "weight":
        assert table["weight"].to_numpy() == pytest.approx(1 - harm["wrong"].to_numpy())
    assert undertow("restore", out, "--out", back).code == 0
    again = read[suffix](back) if suffix in read else pd.DataFrame(tiny.read_jsonl(back))
    pd.testing.assert_frame_equal(again.fillna(""), before.fillna(""), check_dtype=False)


def test_the_worst_group_is_named(made):
    outcome = undertow("decide", made.folder, "--group-by", "source")
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("careless") < outcome.out.index("careful")


def test_a_changed_file_is_not_restored(made, tmp_path):
    out = tmp_path / "out.jsonl"
    decide(made.folder, out)
    rows = tiny.read_jsonl(out)
    rows[3]["text"] = "another"
    out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    outcome = undertow("restore", out, "--out", tmp_path / "back.jsonl")
    assert outcome.code == 2
    assert "1 rows of" in outcome.complaint
    out.write_text("".join(json.dumps(r) + "\n" for r in rows[1:]))
    outcome = undertow("restore", out, "--out", tmp_path / "back.jsonl")
    assert outcome.code == 2
    assert "Rows were added or taken away" in outcome.complaint
    assert not (tmp_path / "back.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--action", "burn"), "--action burn is not known"),
        (("--above", 2), "--above 2"),
        ((), "Nothing is asked for"),
        (("--group-by", "nobody"), "no column 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said(made, tmp_path, more, said):
    out = () if not more or "--group-by" in more else ("--out", tmp_path / "x.csv")
    outcome = undertow("decide", made.folder, *more, *out)
    assert outcome.code == 2
    assert said in outcome.complaint


def test_runs_that_cannot_be_decided_on(made, full, plain, tmp_path):
    planted = undertow("decide", full.folder, "--out", tmp_path / "x.csv")
    assert "--plant had flipped" in planted.complaint
    uncalibrated = undertow("decide", plain.folder, "--action", "relabel", "--out", tmp_path / "x.csv")
    assert "was not calibrated" in uncalibrated.complaint
    other = undertow("decide", made.folder, "--train", plain.arguments[3], "--out", tmp_path / "x.csv")
    assert other.code == 2
    with pytest.raises(Exception, match="is not there"):
        restore(tmp_path / "nothing.csv", tmp_path / "x.csv")
