"""Every command and every Python example in the documentation runs as it stands, on a tiny model and tiny data."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from undertow.cli.main import app, with_values

from . import tiny

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("undertow ")
]
# What looks at a finished run, and the audit that makes one.
LOOKS = ("layers", "compare", "score")
AUDIT = (
    *("audit", "--model", "my-model", "--train", "train.csv", "--validation", "validation.csv"),
    *("--plant", "0.2", "--estimator", "cosine,datainf", "--epochs", "2"),
)
EXAMPLES = [
    (page.name, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The files that the examples name, in the current folder."""
    tiny.save_bert(tmp_path / "my-model")
    tiny.rows(96, seed=0).to_csv(tmp_path / "train.csv", index=False)
    tiny.rows(48, seed=1).to_csv(tmp_path / "validation.csv", index=False)
    tiny.rows(96, seed=0).assign(weight=np.linspace(0, 1, 96)).to_csv(tmp_path / "weighted.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documentation_has_examples():
    assert len(COMMANDS) >= 4
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda v: v if v.endswith(".md") else "")
def test_commands_run(page, command, workplace, capsys):
    arguments = with_values(shlex.split(command)[1:])
    if arguments[0] in LOOKS:
        app([*AUDIT, "--out", arguments[1]], standalone_mode=False)
        app(arguments, standalone_mode=False)
        page = "scores/*.html" if arguments[0] == "score" else f"{arguments[0]}.html"
        assert list((workplace / arguments[1]).glob(page))
        return
    if arguments[0] in ("decide", "restore"):
        app([*AUDIT[:7], "--epochs", "2", "--out", "runs/first"], standalone_mode=False)
        if arguments[0] == "restore":
            app(["decide", "runs/first", "--out", arguments[1]], standalone_mode=False)
        app(arguments, standalone_mode=False)
        assert (workplace / arguments[arguments.index("--out") + 1]).is_file()
        return
    if arguments[0] == "sample":
        app([*arguments[:2], "--rows", "20", *arguments[4:]], standalone_mode=False)
        assert (workplace / arguments[arguments.index("--out") + 1]).is_file()
        return
    # Ten epochs are the paper's; two are enough to see that the command runs.
    app([*arguments, "--epochs", "2"], standalone_mode=False)
    if arguments[0] == "plan":
        assert "In all" in capsys.readouterr().out
        return
    out = workplace / arguments[arguments.index("--out") + 1]
    assert (out / "report.html").is_file()
    assert "flagged as most harmful" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=lambda v: v if v.endswith(".md") else "")
def test_python_examples_run(page, code, workplace):
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    left = "runs/weighted" if "weighted.csv" in code else "cleaned.jsonl"
    assert (workplace / left).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert missing == []


def test_changelog_names_the_version():
    import undertow

    assert f"## [{undertow.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_the_paper_map_names_is_there():
    page = (ROOT / "docs" / "paper-map.md").read_text()
    named = {
        n for row in re.findall(r"^\|[^|]*\|([^|]*)\|", page, re.MULTILINE) for n in re.findall(r"`([a-z_.]+)`", row)
    }
    named -= {"influence.zarr"}
    assert len(named) > 15
    for name in sorted(named):
        assert resolves(f"undertow.{name}"), name


def resolves(name):
    try:
        import_module(name)
    except ImportError:
        module, attribute = name.rsplit(".", 1)
        return hasattr(import_module(module), attribute)
    return True
