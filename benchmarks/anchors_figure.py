"""The figure of docs/how-sure.md: p-values of the rows of a run whose wrong labels are known, and the cut.

undertow demo --out runs/demo
python benchmarks/anchors_figure.py runs/demo --write docs/images/anchors.png
"""

import argparse
import json
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

BINS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of an audit with planted noise")
    parser.add_argument("--write", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    harm = pd.read_parquet(options.run / "harm.parquet")
    found = json.loads((options.run / "run.json").read_text())["results"]["controls"]
    label = np.where(harm["planted"], "label is wrong", "label is right")
    place = np.minimum((harm["p_value"] * BINS).astype(int), BINS - 1) / BINS
    counts = pd.DataFrame({"start": place, "end": place + 1 / BINS, "label": label})
    counts = counts.groupby(["start", "end", "label"], as_index=False).size()
    cut = harm.loc[harm["flagged"], "p_value"].max()
    bars = (
        alt.Chart(counts)
        .mark_bar(stroke="white")
        .encode(
            x=alt.X("start:Q", bin="binned", title="p-value against good rows", scale=alt.Scale(domain=[0, 1])),
            x2="end:Q",
            y=alt.Y("size:Q", title="rows", stack="zero"),
            color=alt.Color(
                "label:N",
                title=None,
                scale=alt.Scale(domain=["label is wrong", "label is right"], range=["#c4453c", "#9db4c0"]),
            ),
        )
    )
    line = alt.Chart(pd.DataFrame({"cut": [cut]})).mark_rule(strokeDash=[5, 4], strokeWidth=2).encode(x="cut:Q")
    text = f"flagged: {found['flagged']:,} rows"
    words = line.mark_text(align="left", dx=6, dy=-108, fontSize=12).encode(text=alt.value(text))
    chart = (bars + line + words).properties(width=520, height=240)
    chart.save(options.write, scale_factor=2)
    print(f"wrote {options.write}")


if __name__ == "__main__":
    main()
