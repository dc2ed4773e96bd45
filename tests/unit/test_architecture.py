"""Who may know whom: dependencies point one way, and one file alone names architectures."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import undertow

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "undertow"
FILES = sorted(SOURCE.rglob("*.py"))

# What each room may import of the others, besides itself. pipeline may import anything but cli and study, which joins
# many audits; study anything but cli, cli anything.
ALLOWED = {
    "errors": set(),
    "progress": set(),
    "data": {"errors"},
    "metrics": {"errors"},
    "aggregation": {"errors"},
    "models": {"errors"},
    "gradients": {"data", "models", "errors"},
    "training": {"data", "models", "errors"},
    "influence": {"data", "gradients", "models", "errors"},
    "baselines": {"influence", "gradients", "data", "models", "errors"},
    "controls": {"errors"},
    "report": {"metrics", "errors"},
}
ALLOWED["__main__"] = {"cli"}
ROOMS = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
ALLOWED["pipeline"] = ROOMS - {"cli", "study"}
ALLOWED["study"] = ROOMS - {"cli"}
ALLOWED["cli"] = ROOMS | {"__init__"}

# Names of models and of their layers that would give an architecture away.
MODEL_NAMES = re.compile(
    r"(bert|llama|mi[sx]tral|qwen|gemma|electra|mpnet|smollm|stablelm|camembert|gpt.?neo|gpt.?2|falcon|bloom)"
    r"|\b(opt|olmo2?|ernie|phi|t5)\b",
    re.IGNORECASE,
)
LAYER_NAMES = re.compile(
    r"\b([qkvo]_proj|(gate|up|down|out)_proj|[qkv]_lin|out_lin|(query|key|value)_proj|c_attn|c_proj|query_key_value"
    r"|self_attn|intermediate\.dense|pre_classifier|classification_head|lin[12]|fc[12])\b"
)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Rooms of undertow that a file imports from, wherever in the file, with the line."""
    package = ["undertow", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[list[str]] = []
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = base + (node.module.split(".") if node.module else [])
            # `from undertow import data` names rooms in its list.
            modules = [[*origin, alias.name] for alias in node.names] if origin == ["undertow"] else [origin]
        for parts in modules:
            if parts[0] == "undertow":
                name = parts[1] if len(parts) > 1 else "__init__"
                yield (name if name in ROOMS else "__init__"), node.lineno


def test_every_room_has_a_rule():
    assert set(ALLOWED) == ROOMS


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != SOURCE or f.name != "__init__.py"], ids=str)
def test_dependencies_point_one_way(path: Path):
    allowed = ALLOWED[room(path)] | ({room(path)} if path.parent != SOURCE else set())
    wrong = [f"{path}:{line} imports {other}" for other, line in imports(path) if other not in allowed]
    assert not wrong


# Rooms that compute a harm, and words that would hand them the truth.
HARM_ROOMS = ("gradients", "influence", "baselines", "aggregation", "controls")
TRUTH = re.compile(r"noisy|noise|planted|truth|original_label|flipped|oracle", re.IGNORECASE)


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Names that functions and classes of a file can be given, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ClassDef):  # fields of a dataclass
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
            yield from ((f.target.id, f.lineno) for f in fields if isinstance(f.target, ast.Name))


def test_true_noise_reaches_metrics_only():
    """What computes a harm imports no metric, cannot be told what is noisy, and reads no planted rows."""
    files = [f for f in FILES if room(f) in HARM_ROOMS]
    assert {room(f) for f in files} == set(HARM_ROOMS)
    assert not [
        f"{f}:{line}" for f in files for other, line in imports(f) if other in ("metrics", "report", "pipeline")
    ]
    named = [f"{f}:{line} {name}" for f in files for name, line in parameters(f) if TRUTH.search(name)]
    read = [f"{f}:{line} {text!r}" for f in files for text, line in literals(f) if "planted" in text]
    assert not named + read
    seen = {name for f in FILES if room(f) == "metrics" for name, _ in parameters(f)}
    assert {"noisy", "harm"} <= seen  # the search finds such names where they are allowed


def literals(path: Path) -> Iterator[tuple[str, int]]:
    """String literals of a file with their lines, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno


def test_one_file_names_architectures():
    home = SOURCE / "models" / "architectures.py"
    found = [
        f"{path}:{line} {text!r}"
        for path in FILES
        if path != home
        for text, line in literals(path)
        if MODEL_NAMES.search(text) or LAYER_NAMES.search(text)
    ]
    assert not found
    assert any(MODEL_NAMES.search(text) for text, _ in literals(home))


def test_import_and_help_load_no_heavy_library():
    code = (
        "import sys, undertow\n"
        "undertow.__version__, undertow.__all__\n"
        "from undertow.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "for name in ('audit', 'layers', 'compare'):\n"
        "    app([name, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'xarray', 'zarr', 'altair', 'scipy', 'sklearn'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    assert "audit" in done.stdout


def test_public_names_resolve():
    assert sorted(undertow.__all__) == undertow.__all__
    for name in undertow.__all__:
        assert getattr(undertow, name) is not None
        assert name in dir(undertow)
    with pytest.raises(AttributeError, match="'undertow' has no attribute 'no_such_name'"):
        _ = undertow.no_such_name


def test_every_module_can_be_imported():
    for path in FILES:
        parts = ["undertow", *path.relative_to(SOURCE).with_suffix("").parts]
        importlib.import_module(".".join(p for p in parts if p != "__init__"))


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert undertow.__version__ == project["version"]
