import numpy as np
import pandas as pd
import pytest

from undertow.errors import ConfigError
from undertow.study.figures import FIGURES, write_figures
from undertow.study.published import beside, published
from undertow.study.tables import TABLES, Left, make_tables, published_page, write_tables
from undertow.study.writing import Table, escape_latex, escape_markdown, latex, markdown, shown

from .small_study import study

FRAME = pd.DataFrame(
    {
        "group": ["a_b", "c|d"],
        "ndr30": [0.5, -0.25],
        "ndr30_low": [0.4, np.nan],
        "ndr30_high": [0.6, np.nan],
        "mean": [1.0, 2.0],
        "std": [0.1, np.nan],
        "cells": [1200, 3],
        "blocks_left_out": [0, 0],
    }
)


def test_intervals_and_spreads_are_in_one_cell():
    found = shown(FRAME)
    assert list(found.columns) == ["group", "NDR@30", "mean", "cells"]
    assert found["NDR@30"].tolist() == ["0.500 [0.400, 0.600]", "−0.250"]
    assert found["mean"].tolist() == ["1.000 ± 0.100", "2.000"]
    assert found["cells"].tolist() == ["1,200", "3"]
    assert list(shown(FRAME.assign(blocks_left_out=[0, 2])).columns)[-1] == "blocks left out"


def test_markup_is_escaped():
    assert escape_latex("50% of a_b & {c} #1 ~^\\ $x$") == (
        r"50\% of a\_b \& \{c\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{} \$x\$"
    )
    assert escape_latex("−0.5 [±]\nρ") == r"$-$0.5 {[}$\pm$] $\rho$"
    assert escape_markdown("a|b_c\n<d>") == r"a\|b\_c \<d\>"


def test_pages_hold_every_row_and_as_many_columns():
    table = Table("name", "A title", "50% said.", FRAME)
    lines = markdown(table).splitlines()
    assert lines[:3] == ["# A title", "", "50% said."]
    assert lines[-1] == r"| c\|d | −0.250 | 2.000 | 3 |"
    assert lines[-3] == "| --- | ---: | ---: | ---: |"
    text = latex(table)
    assert r"\begin{longtable}{lrrr}" in text
    assert r"\caption{A title. 50\% said.}\label{tab:name}\\" in text
    assert r"a\_b & 0.500 {[}0.400, 0.600] & 1.000 $\pm$ 0.100 & 1,200 \\" in text


def test_published_numbers():
    known = published()
    assert len(known) == 217
    rates = known[known["measure"] == "win_rate"].set_index(["model", "estimator", "layers"])["value"]
    assert len(rates) == 4 * (8 * 3 - 5)  # embeddings have no DataInf, and the two of words TracIn alone
    assert rates[("Mistral-7B-v0.3", "cosine", "head")] == 0.09
    assert rates[("RoBERTa-large", "datainf", "att4")] == 0.55
    rho = known[known["measure"] == "rho_ndr30"].set_index(["model", "aggregation", "estimator"])["value"]
    assert rho[("Mistral-7B-v0.3", "vote", "datainf")] == 0.9


def test_measured_beside_published():
    made = {table.name: table.frame for table in beside(study(), times=20)}
    ranks = made["layers"].set_index(["estimator", "layers"])
    assert list(ranks.index) == [("tracin", "embedding"), ("tracin", "att1"), ("tracin", "head")]
    assert ranks.loc[("tracin", "head"), ["RoBERTa-large", "measured: small"]].tolist() == ["7 (0.17)", "1 (0.00)"]
    places = made["places"].set_index(["measure", "aggregation"])["measured: small"]
    assert places[("place", "mean")] == "3 of 3"
    assert places[("place", "vote")] == "1 of 3"
    assert set(made["proxies"]["estimator"]) == {"tracin"}
    assert "differ from those of the paper" in published_page(beside(study(), times=20))


def test_every_table_is_made_or_left_out_with_a_reason(tmp_path):
    written, left = write_tables(study(), tmp_path, times=10)
    assert not left
    assert {p.name for p in written} == {p.name for p in tmp_path.iterdir()}
    assert {"layer-ranks-mean.md", "layer-ranks-vote-k0.3.tex", "published.md"} <= {p.name for p in written}
    assert make_tables(study(retrained=False), "filtering", times=10) == Left("filtering", "nothing was retrained")
    names = {p.stem for p in written}
    assert all(any(stem == name or stem.startswith(f"{name}-") for stem in names) for name in TABLES)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--only nonsense is no table\. There are: layer-ranks, "):
        write_tables(study(), tmp_path, ["nonsense"])
    assert not list(tmp_path.iterdir())


def test_figures_are_written_as_svg_and_png(tmp_path):
    written, left = write_figures(study(), tmp_path, times=10)
    assert [item.name for item in left] == ["ndr-by-k"]  # of one k alone there is nothing to draw
    assert len(written) == 2 * (len(FIGURES) - 1)
    for path in written:
        head = path.read_bytes()[:8]
        assert head.startswith(b"<svg" if path.suffix == ".svg" else b"\x89PNG")
    assert "att1" in (tmp_path / "win-rate-profile-small.svg").read_text()
