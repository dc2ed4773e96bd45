"""Input that cannot be used: one paragraph on standard error, exit code 2, and nothing lost or left half-made."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from undertow.errors import RunFolderError
from undertow.pipeline.run_folder import RunFolder

from . import tiny
from .command import contents, undertow


def replaced(arguments, **values):
    """A command with other values, or more options."""
    told = [*arguments]
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if option in told:
            told[told.index(option) + 1] = value
        else:
            told += [option, value]
    return told


@pytest.fixture
def refused(asked, tmp_path):
    """Run a command that must fail; gives its message. No run folder may be left."""

    def refuse(*more, out=None, **values):
        folder = out or tmp_path / "run"
        outcome = undertow("audit", *replaced(asked, **values), *more, "--out", folder)
        assert outcome.code == 2, outcome.err
        assert outcome.out == ""
        assert out is not None or not folder.exists()
        return outcome.complaint

    return refuse


def frame(**columns):
    return tiny.rows(40, seed=1).assign(**columns)


def two_labels(table):
    return table.assign(other=table["label"]).rename(columns={"label": "category", "other": "sentiment"})


BAD_TABLES = {
    "two-labels.csv": (two_labels(frame()), ["label column could be any of 'category', 'sentiment'", "--label-column"]),
    "no-text.csv": (frame()[["id", "label"]], ["no-text.csv", "text", "The columns are 'id'", "--text-column"]),
    "no-label.csv": (frame()[["id", "text"]], ["label column", "--label-column"]),
    "numbers.jsonl": (frame(text=range(40)), ["'text' holds int64, not text", "row 0: 0"]),
    "blank.csv": (frame(text=["  "] * 3 + ["the soup was superb"] * 37), ["3 of 40 rows without text", "rows 0, 1, 2"]),
    "one-class.csv": (frame(label="praise"), ["All 40 labels in column 'label' are 'praise'", "At least two classes"]),
    "few.csv": (frame().head(10), ["has 10 rows, fewer than one batch of 16", "--batch-size"]),
    "missing-labels.jsonl": (frame(label=[None] * 2 + ["praise", "blame"] * 19), ["no label in 2 of 40 rows"]),
    "none.jsonl": (frame().head(0), ["none.jsonl", "is empty"]),
    "header.csv": (frame().head(0), ["has no rows"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_training_tables(name, refused, tmp_path):
    table, expected = BAD_TABLES[name]
    said = refused(train=tiny.write(table, tmp_path / name))
    assert "training" in said or "few.csv" in said
    for words in expected:
        assert words in said


BAD_FILES = {
    "gone.csv": (None, ["There is no file or folder", "gone.csv", "Accepted are a CSV"]),
    "garbage.parquet": (b"PAR1 nothing of the kind", ["garbage.parquet cannot be read as PARQUET", "complete"]),
    "latin.csv": ("text,label\ncafé,a\n".encode("latin-1"), ["not UTF-8", "save it anew as UTF-8"]),
    "broken.jsonl": (b'{"text": "a", "label": "b"}\n{"text"\n', ["line 2 is not valid JSON", "Mend that line"]),
    "ragged.csv": (b"text,label\nthe soup, was good,a\n", ["line 2 has 3 cells, the header has 2"]),
    "sheet.xlsx": (b"PK", ["has the extension '.xlsx', which is not known", "Accepted are a CSV"]),
}


@pytest.mark.parametrize("role", ["train", "validation"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_files(name, role, refused, tmp_path):
    content, expected = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = refused(**{role: tmp_path / name})
    assert f"The {'training' if role == 'train' else 'validation'} source" in said
    for words in expected:
        assert words in said


def test_labels_that_training_lacks(refused, tmp_path):
    other = tiny.rows(20, seed=2).replace({"label": {"shrug": "meh"}})
    said = refused(validation=tiny.write(other, tmp_path / "validation.csv"))
    assert "The validation labels 'meh' (6 rows) are not among the training classes 'blame', 'praise', 'shrug'" in said


def test_pairs_on_one_side_only(refused, place):
    said = refused(validation=place("pairs-validation.csv"))
    assert "one has a second text and the other has none" in said


BAD_OPTIONS = [
    (("--cut", 1.4), ["--cut 1.4 is not accepted", "less than 1", "share of the rows to flag"]),
    (("--cut", 0), ["--cut 0.0 is not accepted", "greater than 0"]),
    (("--k", 2.5), ["--k 2.5 is outside its range", "above 0"]),
    (("--k", "nan"), ["--k nan"]),
    (("--learning-rate", "inf"), ["--learning-rate inf"]),
    (("--estimator", "tracin,shapley"), ["--estimator got 'shapley'", "tracin, cosine, datainf"]),
    (("--estimator", "tracin", "--estimator", "tracin"), ["names one twice"]),
    (("--layers", "third"), ["--layers third is not known", "attention", "a range such as 0-7"]),
    (("--layers", "7-3"), ["runs backwards", "3-7"]),
    (("--aggregate", "mode"), ["--aggregate mode is not known", "mean, standardised, rank, vote"]),
    (("--finetune", "maybe"), ["--finetune maybe is not accepted", "'auto', 'always' or 'never'"]),
    (("--epochs", 0, "--rank", 0), ["--epochs 0 is not accepted", "--rank 0 is not accepted"]),
    (("--device", "nonsense"), ["--device nonsense cannot be used", "auto, cpu"]),
    (("--device", "meta"), ["--device meta cannot be used"]),
    (("--max-length", 3), ["--max-length 3 is not accepted", "greater than or equal to 4"]),
    # Known only once the model is there, but before it is trained.
    (("--layers", "5"), ["--layers 5 selects none of the 10 tracked modules", "2 adapted layers"]),
    (("--layers", "bert.nowhere"), ["--layers bert.nowhere selects none"]),
    (("--target-modules", "dense9,query"), ["No linear layer is called 'dense9'", "this model has: query, key, value"]),
]


@pytest.mark.parametrize(("options", "expected"), BAD_OPTIONS, ids=[" ".join(map(str, o)) for o, _ in BAD_OPTIONS])
def test_options(options, expected, refused):
    said = refused(*options)
    for words in expected:
        assert words in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(refused):
    said = refused("--device", "cuda")
    assert "--device cuda cannot be used: " in said
    assert "Accepted here are: auto, cpu" in said


def pickle_only(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def adapter_without_base(folder):
    for item in folder.iterdir():
        item.unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/gone/base"})
    )
    (folder / "adapter_model.safetensors").write_bytes(b"")


BAD_MODELS = {
    "pickle": (pickle_only, ["pytorch_model.bin", "can run code", "Convert once", "save_pretrained"]),
    "lost base": (adapter_without_base, ["base model '/gone/base', which cannot be had", "base_model_name_or_path"]),
    "broken adapter": (
        lambda f: (f / "adapter_config.json").write_text("{") and (f / "adapter_model.safetensors").write_bytes(b""),
        ["adapter_config.json cannot be read", "save the adapter again"],
    ),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:3000]),
        ["could not be loaded", "Accepted are weights in safetensors"],
    ),
    "no tokenizer": (
        lambda f: [item.unlink() for item in f.glob("tokenizer*")],
        ["tokenizer knows no words", "tokenizer.json"],
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), ["neither config.json nor adapter_config.json"]),
    "broken configuration": (lambda f: (f / "config.json").write_text("{"), ["cannot be had", "not a valid JSON"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["holds no weights", "model.safetensors"]),
    "other shapes": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace('size": 32', 'size": 48')),
        ["do not have the shapes that its config.json says"],
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models(name, refused, place, tmp_path):
    spoil, expected = BAD_MODELS[name]
    folder = shutil.copytree(place("bert"), tmp_path / "model")
    spoil(folder)
    said = refused(model=folder)
    for words in expected:
        assert words in said


def test_a_head_of_another_size(refused, tmp_path):
    folder = tiny.save_bert(tmp_path / "model", ("LABEL_0", "LABEL_1"))
    said = refused(model=folder)
    assert "has a trained head, but not for 3 classes" in said
    assert "--finetune always" in said


def test_an_unknown_architecture(refused, tmp_path):
    said = refused(model=tiny.save_neox(tmp_path / "neox"))
    assert "The architecture 'gpt_neox' is not known" in said
    assert "--target-modules; this model has: query_key_value, dense, dense_h_to_4h, dense_4h_to_h, score" in said


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere", "nobody/no-such-model"])
def test_models_that_are_not_there(model, refused):
    said = refused(model=model)
    assert model in said
    assert "--model takes a hub id" in said


def test_a_hub_data_set_without_network(refused):
    said = refused(train="nobody/no-such-data:train")
    assert "The training source: The hub data set 'nobody/no-such-data:train'" in said
    assert "without network give a local source" in said


def test_divergence_names_the_rows_and_blocks_nothing(asked, tmp_path):
    out = tmp_path / "run"
    failed = undertow("audit", *replaced(asked, learning_rate=1e30), "--out", out)
    assert failed.code == 2
    assert "The loss is NaN or infinite after" in failed.complaint
    assert "of the training data (rows " in failed.complaint
    assert "Lower --learning-rate" in failed.complaint
    assert list(out.iterdir()) == []
    assert undertow("audit", *asked, "--out", out).code == 0


def test_out_that_is_a_file(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"{file} is a file; --out takes a folder" in refused(out=file)
    assert "cannot be used as a run folder" in refused(out=file / "below")
    assert file.read_text() == "mine"


def test_out_that_cannot_be_written(refused):
    assert "/proc/undertow cannot be used as a run folder" in refused(out=Path("/proc/undertow"))


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_out_with_files_of_others(more, refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    said = refused(*more, out=folder)
    assert "holds files but no run.json, so it is not a run folder and nothing in it is touched" in said
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {}}'])
def test_out_with_a_broken_run(text, refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "run.json").write_text(text)
    assert "run.json cannot be read" in refused(out=folder)
    assert (folder / "run.json").read_text() == text


def test_out_with_another_configuration(full):
    before = contents(full.folder)
    outcome = undertow("audit", *full.arguments, "--cut", 0.1, "--seed", 5, "--out", full.folder)
    assert outcome.code == 2
    assert "holds a run with another configuration (cut was not given, now 0.1; seed was 0, now 5)" in outcome.complaint
    assert "Nothing in it was touched" in outcome.complaint
    assert contents(full.folder) == before


def test_a_finished_run_from_which_something_is_gone(plain, tmp_path):
    folder = shutil.copytree(plain.folder, tmp_path / "copy")
    shutil.rmtree(folder / "influence.zarr")
    outcome = undertow("audit", *plain.arguments, "--out", folder)
    assert outcome.code == 2
    assert "from which influence.zarr is gone" in outcome.complaint


def test_a_run_that_ends_before_it_has_anything_leaves_nothing(tmp_path):
    (tmp_path / "run.json.tmp").write_text('{"crea')  # of a kill in the first moment
    with contextlib.suppress(KeyboardInterrupt), RunFolder.open(tmp_path, {"seed": 0}).begin({"training": "a"}):
        assert {p.name for p in tmp_path.iterdir()} == {".lock", "run.json"}
        with pytest.raises(RunFolderError, match="another configuration"):  # this one is at work in it
            RunFolder.open(tmp_path, {"seed": 1})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path):
    early = RunFolder.open(tmp_path, {"seed": 0})
    with contextlib.suppress(KeyboardInterrupt), early.begin({"training": "a"}):
        with early.stage("gradients") as outputs:
            outputs["kept"] = True
        before = contents(tmp_path)
        late = RunFolder.open(tmp_path, {"seed": 0})
        with pytest.raises(RunFolderError, match="Another process is at work in"), late.begin({"training": "a"}):
            pass
        assert contents(tmp_path) == before
        with early.stage("influence"):
            pass
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    # It read the manifest before the other one went on: what it holds is not what the folder holds.
    with (
        pytest.raises(RunFolderError, match=r"was at work in .* Give the command again"),
        late.begin({"training": "a"}),
    ):
        pass
    (tmp_path / ".lock").touch()  # a killed process leaves the file, and holds nothing
    with RunFolder.open(tmp_path, {"seed": 0}).begin({"training": "a"}):
        assert RunFolder.read(tmp_path).done("influence")


def test_a_manifest_that_changes_right_after_it_was_read_is_noticed(tmp_path, monkeypatch):
    with RunFolder.open(tmp_path, {"seed": 0}).begin({"training": "a"}):
        pass
    read = json.loads

    def another_at_work(text: str) -> object:
        found = read(text)
        if "stages" in found:
            (tmp_path / "run.json").write_text(text.replace('"stages": {}', '"stages": {"influence": {}}'))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", another_at_work)
        late = RunFolder.open(tmp_path, {"seed": 0})
    assert RunFolder.read(tmp_path).done("influence")
    with pytest.raises(RunFolderError, match="was at work in"), late.begin({"training": "a"}):
        pass


def test_exit_codes_of_the_real_command(tmp_path):
    """Messages are printed by the installed command itself, in its own process."""
    command = Path(sys.executable).with_name("undertow")
    needed = ["--model", "m", "--train", "t", "--validation", "v", "--out", str(tmp_path / "run")]
    for arguments, code, expected in (
        (["audit", *needed, "--k", "2.5"], 2, "undertow: --k 2.5 is outside its range."),
        (["audit", *needed, "--epochs", "many"], 2, "Invalid value for '--epochs'"),
        (["audit", *needed[2:]], 2, "Missing option '--model'"),
        (["audit", *needed, "--colour", "red"], 2, "No such option"),
        (["prune"], 2, "No such command 'prune'"),
    ):
        ended = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (code, "")
        assert expected in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
