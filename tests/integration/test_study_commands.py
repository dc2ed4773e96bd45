"""``undertow tables`` and ``undertow figures`` on a study that is there, half there, or not."""

import pytest

from unit.study.small_study import tables

from .command import undertow


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "study"
    place.mkdir()
    for name, frame in tables(retrained=False).items():
        frame.to_parquet(place / f"{name}.parquet", index=False)
    return place


def test_tables_are_written_and_listed(folder):
    outcome = undertow("tables", folder, "--resamples", 20)
    assert outcome.code == 0, outcome.err
    assert f"Written: {folder / 'tables' / 'layer-ranks-mean.md'}" in outcome.out
    assert "Left out: filtering, as nothing was retrained." in outcome.said
    assert "NDR@30" in (folder / "tables" / "layer-ranks-mean.md").read_text()
    assert not (folder / "tables" / "filtering.md").exists()


def test_figures_are_written_and_listed(folder, tmp_path):
    outcome = undertow("figures", folder, "--only", "ndr-profile,ndr-by-k", "--out", tmp_path / "f", "--resamples", 20)
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["ndr-profile-small.png", "ndr-profile-small.svg"]
    assert "Left out: ndr-by-k, as there is no vote with several k" in outcome.said


def test_some_tables_in_another_folder(folder, tmp_path):
    outcome = undertow("tables", folder, "--only", "costs", "--out", tmp_path / "t")
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["costs.md", "costs.tex"]


@pytest.mark.parametrize("command", ["tables", "figures"])
def test_what_cannot_be_used_is_one_paragraph(command, folder, tmp_path):
    missing = undertow(command, tmp_path / "none")
    assert missing.code == 2
    assert "is no folder" in missing.complaint
    unknown = undertow(command, folder, "--only", "nonsense")
    assert unknown.code == 2
    assert "--only nonsense is no " in unknown.complaint
    (folder / "results.parquet").unlink()
    half = undertow(command, folder)
    assert half.code == 2
    assert "holds no results.parquet" in half.complaint


@pytest.mark.parametrize("command", ["tables", "figures"])
def test_help_names_everything(command):
    from undertow.study.figures import FIGURES
    from undertow.study.tables import TABLES

    said = undertow(command, "--help").said
    # Help wraps at hyphens too.
    assert all(name in said.replace("- ", "-") for name in (TABLES if command == "tables" else FIGURES))
