"""What the command says of itself."""

import re

from undertow.aggregation.names import AGGREGATION_NAMES
from undertow.pipeline.page import next_steps
from undertow.pipeline.settings import AuditSettings, option_flag

from .command import undertow


def test_help_mentions_every_option():
    outcome = undertow("audit", "--help")
    assert outcome.code == 0
    flags = set(re.findall(r"^\s+(--[a-z0-9-]+)", outcome.out, re.MULTILINE))
    named = {"--model", "--train", "--validation", "--queries", "--test", "--out", "--overwrite", "--help"}
    assert flags == named | {option_flag(name) for name in AuditSettings.model_fields}
    for words in ("tracin, cosine, datainf", *AGGREGATION_NAMES, "[default: 0.0003]", "[default: cosine]", "auto"):
        assert words in outcome.said
    assert "None" not in outcome.out


def test_commands_are_listed():
    outcome = undertow("--help")
    assert outcome.code == 0
    for name in (
        "audit",
        "plan",
        "score",
        "layers",
        "compare",
        "experiment",
        "tables",
        "figures",
        "decide",
        "restore",
        "demo",
    ):
        assert re.search(rf"^\s+{name} ", outcome.out, re.MULTILINE)
        assert undertow(name, "--help").code == 0


def test_version():
    from undertow import __version__

    assert undertow("--version").out == f"undertow {__version__}\n"


def test_next_command_is_quoted_for_a_shell(tmp_path):
    settings = AuditSettings(target_modules=("query", "key"), correct_only=True, plant=0.2)
    sources = {"model": "my model", "train": "it's.csv", "validation": "v.csv", "queries": None, "test": "t.csv"}
    first, second, third = next_steps({**sources, **settings.model_dump(mode="json")}, tmp_path / "a run", False)
    assert first == (
        "undertow audit --model 'my model' --train 'it'\"'\"'s.csv' --validation v.csv --test t.csv "
        f"--target-modules query,key --correct-only --plant 0.2 --retrain --out '{tmp_path}/a run-retrained'"
    )
    assert second.startswith("python -c 'import pandas; ")
    assert third == f"head -n 3 '{tmp_path}/a run/cleaned.jsonl'"
