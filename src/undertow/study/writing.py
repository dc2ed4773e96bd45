"""Tables as Markdown and as LaTeX: numbers with their intervals, and text that holds no markup."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from undertow.errors import RunFolderError
from undertow.pipeline.whole import whole
from undertow.report.text import MISSING, clean, count, fixed, missing, number

# Columns written with three significant digits, as they span several orders of magnitude.
_WIDE = {"p", "seconds", "total_seconds", "peak_memory_mb", "rate", "k", "cut"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "ρ": r"$\rho$",
    "×": r"$\times$",
}
_MARKDOWN = set("\\`*_{}[]<>#|~&$")
_HEADERS = {
    "ndr10": "NDR@10",
    "ndr20": "NDR@20",
    "ndr30": "NDR@30",
    "auc_ndr": "AUC-NDR",
    "how": "aggregation",
    "f1": "F1 macro",
    "matthews": "Matthews",
    "rho": "ρ",
    "peak_memory_mb": "peak memory, MB",
}
_TEXTS = {
    **{"ndr30": "NDR@30", "auc_ndr": "AUC-NDR", "rho_ndr30": "ρ of NDR@30", "rho_auc_ndr": "ρ of AUC-NDR"},
    **{"rho_cancellation": "ρ of cancellation", "best_win_rate": "best win rate"},
}


@dataclass(frozen=True)
class Table:
    """A table with its name, which its files have, and the sentences that say what it shows."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it is read: text cells, ``x``, ``x_low`` and ``x_high`` in one column, and ``std`` after ±.

    A column of nothing but 0 that counts what was left out, or of nothing at all, is not shown.
    """
    columns: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        base = name.removesuffix("_low").removesuffix("_high")
        if (base != name and base in frame) or (name == "std" and "mean" in frame) or _empty(frame[name], name):
            continue
        cells = [_cell(value, name) for value in frame[name]]
        if name == "mean" and "std" in frame:
            spread = [_cell(value, name) for value in frame["std"]]
            cells = [c if s == MISSING else f"{c} ± {s}" for c, s in zip(cells, spread, strict=True)]
        if f"{name}_low" in frame and f"{name}_high" in frame:
            low, high = ([_cell(v, name) for v in frame[f"{name}_{end}"]] for end in ("low", "high"))
            cells = [c if a == MISSING else f"{c} [{a}, {b}]" for c, a, b in zip(cells, low, high, strict=True)]
        columns[_HEADERS.get(name, name.replace("_", " "))] = cells
    return pd.DataFrame(columns)


def markdown(table: Table) -> str:
    """A table as a Markdown page of its own."""
    frame = shown(table.frame)
    numeric = [pd.api.types.is_numeric_dtype(table.frame[_source(name, table.frame)]) for name in frame.columns]
    lines = [
        _line([escape_markdown(name) for name in frame.columns]),
        _line(["---:" if right else "---" for right in numeric]),
        *(_line([escape_markdown(cell) for cell in row]) for row in frame.itertuples(index=False)),
    ]
    return f"# {escape_markdown(table.title)}\n\n{escape_markdown(table.caption)}\n\n" + "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A table as a LaTeX ``longtable`` with booktabs rules, to be included in a document."""
    frame = shown(table.frame)
    numeric = [pd.api.types.is_numeric_dtype(table.frame[_source(name, table.frame)]) for name in frame.columns]
    head = " & ".join(escape_latex(name) for name in frame.columns) + r" \\"
    rows = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in frame.itertuples(index=False)]
    return "\n".join(
        [
            "% needs the packages booktabs and longtable",
            rf"\begin{{longtable}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
            rf"\caption{{{escape_latex(f'{table.title}. {table.caption}')}}}\label{{tab:{table.name}}}\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            *rows,
            r"\bottomrule",
            r"\end{longtable}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    # An opening bracket after the end of a row would be read as its spacing.
    return "".join("{[}" if c == "[" else _LATEX.get(c, c) for c in clean(" ".join(text.split())))


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in clean(" ".join(text.split())))


def write_file(content: str | bytes, path: Path) -> None:
    """Write a file so that a reader never sees half of it; its folder is made.

    Raises:
        RunFolderError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror or error}. Give a folder that can be written to by --out."
        ) from error


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _source(header: str, frame: pd.DataFrame) -> str:
    return next(str(n) for n in frame.columns if _HEADERS.get(str(n), str(n).replace("_", " ")) == header)


def _empty(values: pd.Series, name: str) -> bool:
    if name.endswith("left_out") or name == "infinite":
        return bool((values == 0).all())
    return bool(values.isna().all() or (values.astype(str) == "").all())


def _cell(value: object, name: str) -> str:
    if missing(value) or value == "":
        return MISSING
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return number(float(value)) if name in _WIDE else fixed(float(value))
    return _TEXTS.get(str(value), str(value))
