"""Finding and loading models, adapters and tokenizers from local folders."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import adapted_classifier, random_rows, tiny_classifier, tiny_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerFast

from undertow.errors import ModelError
from undertow.models.loading import load_model, prepare_tokenizer, weights_fingerprint
from undertow.models.sources import CLASSES_FILE, ModelSource, cache_folder, resolve_model

CLASSES = ("bad", "good")


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "</s>", "soup", "tea"])}
    inner = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


def save_model(folder: Path, model: nn.Module, **special: str) -> Path:
    model.save_pretrained(folder)
    tokenizer(**(special or {"pad_token": "[PAD]"})).save_pretrained(folder)
    return folder


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.tensor(random_rows((6,)).input_ids)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture
def classifier(tmp_path) -> Path:
    """A folder with a classifier of two named classes."""
    model = tiny_classifier("bert").float()
    model.config.id2label = dict(enumerate(CLASSES))
    return save_model(tmp_path / "classifier", model)


@pytest.fixture
def encoder(tmp_path) -> Path:
    """A folder with an encoder that has no head."""
    torch.manual_seed(0)
    return save_model(tmp_path / "encoder", AutoModel.from_config(tiny_config("bert")))


@pytest.fixture
def adapter(tmp_path, classifier) -> Path:
    """A folder with an adapter on the classifier."""
    folder = tmp_path / "adapter"
    model = adapted_classifier("bert", seed=1).float()
    model.peft_config["default"].base_model_name_or_path = str(classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def test_classifier(classifier):
    source = resolve_model(str(classifier))
    assert source == ModelSource(str(classifier), str(classifier), None, CLASSES)
    loaded = load_model(source, CLASSES)
    assert loaded.trained_head
    assert not loaded.trained_adapter
    assert loaded.notes == ()
    assert loaded.source is source
    assert not loaded.model.training
    assert loaded.model.config.id2label == {0: "bad", 1: "good"}
    torch.testing.assert_close(logits(loaded.model), logits(tiny_classifier("bert").float()))


def test_encoder_gets_a_head_by_seed(encoder):
    source = resolve_model(str(encoder))
    assert source.classes is None
    first, again, other = (load_model(source, ("a", "b", "c"), seed=seed) for seed in (0, 0, 1))
    assert not first.trained_head
    assert logits(first.model).shape == (1, 3)
    assert torch.equal(logits(first.model), logits(again.model))
    assert not torch.equal(logits(first.model), logits(other.model))
    assert weights_fingerprint(first.model) == weights_fingerprint(again.model) != weights_fingerprint(other.model)


def test_classes_without_names_are_not_known(tmp_path):
    folder = save_model(tmp_path / "unnamed", tiny_classifier("llama").float())
    assert resolve_model(str(folder)).classes is None


def test_dtype(classifier):
    loaded = load_model(resolve_model(str(classifier)), CLASSES, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_adapter_finds_its_base(adapter, classifier):
    source = resolve_model(str(adapter))
    assert source == ModelSource(str(adapter), str(classifier), adapter, CLASSES)
    loaded = load_model(source, CLASSES)
    assert loaded.trained_head
    assert loaded.trained_adapter
    # Base weights of the classifier; LoRA and head of the adapter.
    expected = tiny_classifier("bert").float()
    wrapped = adapted_classifier("bert", seed=1).float()
    own = {name: value for name, value in wrapped.state_dict().items() if "lora_" in name or "modules_to_save" in name}
    base = {f"base_model.model.{name}": value for name, value in expected.state_dict().items()}
    base = {name.replace(".query.", ".query.base_layer."): value for name, value in base.items()}
    base = {name.replace(".value.", ".value.base_layer."): value for name, value in base.items()}
    missing, _ = wrapped.load_state_dict({k: v for k, v in base.items() if "classifier" not in k} | own, strict=False)
    assert all("original_module" in name for name in missing)
    torch.testing.assert_close(logits(loaded.model), logits(wrapped))


def test_adapter_can_be_left_out(adapter):
    loaded = load_model(resolve_model(str(adapter)), CLASSES, use_adapter=False)
    assert not loaded.trained_adapter
    assert not hasattr(loaded.model, "peft_config")


def test_adapter_that_undertow_wrote_knows_its_classes(adapter):
    (adapter / CLASSES_FILE).write_text(json.dumps({"classes": ["no", "yes"]}))
    assert resolve_model(str(adapter)).classes == ("no", "yes")


def test_adapter_on_an_adapter(adapter, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    (second / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"sits on another adapter, .*\. Merge that one first"):
        resolve_model(str(second))


def test_adapter_without_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"does not name its base model\. Add base_model_name_or_path"):
        resolve_model(str(tmp_path))


def test_adapter_for_another_number_of_classes(adapter, encoder):
    source = ModelSource(str(adapter), str(encoder), adapter)
    with pytest.raises(ModelError, match=r"does not fit its base model with 3 classes.*--finetune always"):
        load_model(source, ("a", "b", "c"))


def test_head_for_another_number_of_classes(classifier):
    with pytest.raises(ModelError) as caught:
        load_model(resolve_model(str(classifier)), ("a", "b", "c"))
    text = str(caught.value)
    assert text.startswith(f"The model '{classifier}' has a trained head, but not for 3 classes")
    assert "(a, b, c)" in text
    assert "--finetune always" in text
    assert "\n" not in text


def test_new_head_for_another_number_of_classes(classifier):
    loaded = load_model(resolve_model(str(classifier)), ("a", "b", "c"), new_head=True)
    assert not loaded.trained_head
    assert logits(loaded.model).shape == (1, 3)


def test_weights_of_another_width(classifier):
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"intermediate_size": 30}))
    with pytest.raises(ModelError, match=r"do not have the shapes that its config\.json says"):
        load_model(resolve_model(str(classifier)), CLASSES, new_head=True)


def test_adapter_of_another_architecture(tmp_path, encoder):
    # Its keys match no layer of the base: PEFT leaves every lora_B at zero and only warns.
    folder = tmp_path / "odd"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = get_peft_model(AutoModel.from_pretrained(encoder), LoraConfig(r=3, target_modules=["query"]))
        odd.save_pretrained(folder)
    with pytest.raises(ModelError, match="lacks weights for layers that it should adapt"):
        load_model(ModelSource(str(folder), str(encoder), folder), CLASSES)


@pytest.mark.parametrize(
    ("marker", "pickle", "written"),
    [
        ("config.json", "pytorch_model.bin", "model.safetensors"),
        ("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"),
    ],
)
def test_pickles_are_refused(tmp_path, marker: str, pickle: str, written: str):
    (tmp_path / marker).write_text('{"base_model_name_or_path": "x"}')
    (tmp_path / pickle).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError) as caught:
        resolve_model(str(tmp_path))
    text = str(caught.value)
    assert f"pickle files only ({pickle})" in text
    assert f"save_pretrained(folder), which writes {written}" in text


def test_pickle_beside_safetensors_is_not_read(classifier):
    (classifier / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert load_model(resolve_model(str(classifier)), CLASSES).trained_head


def test_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no weights\. Expected is model\.safetensors"):
        resolve_model(str(tmp_path))


def test_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds neither config\.json nor adapter_config\.json, so it is not a model"):
        resolve_model(str(tmp_path))
    (tmp_path / "small.gguf").touch()
    with pytest.raises(ModelError, match=r"It holds small\.gguf: name that file itself"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("spec", ["./no/such", "/no/such/folder", "~/no-such-folder-here", "a/b/c"])
def test_missing_folder(spec: str):
    with pytest.raises(ModelError, match=rf"There is no folder {spec}\. --model takes a hub id, a local folder"):
        resolve_model(spec)


def test_missing_gguf():
    with pytest.raises(ModelError, match=r"There is no file no/such\.gguf"):
        resolve_model("no/such.gguf")


def test_unreadable_gguf_leaves_nothing_behind(tmp_path):
    file, cache, said = tmp_path / "broken.gguf", tmp_path / "cache", []
    file.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match=r"broken\.gguf could not be read by transformers"):
        resolve_model(str(file), cache=cache, say=said.append)
    assert [text.split(" into ")[0] for text in said] == ["Dequantising broken.gguf"]
    assert list((cache / "gguf").iterdir()) == []


def test_file_that_is_no_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match=r"is a file\. --model takes"):
        resolve_model(str(file))


def test_tokenizer_without_a_pad_token(tmp_path):
    folder = save_model(tmp_path / "decoder", tiny_classifier("llama").float(), eos_token="</s>")
    loaded = load_model(resolve_model(str(folder)), CLASSES)
    assert loaded.notes == ("The tokenizer has no pad token; </s> pads instead.",)
    assert loaded.tokenizer.pad_token_id == loaded.model.config.pad_token_id == 2
    assert loaded.tokenizer.padding_side == "right"


def test_tokenizer_decides_what_pads():
    model, own = tiny_classifier("llama"), tokenizer(pad_token="[PAD]", padding_side="left")
    model.config.pad_token_id = None
    assert prepare_tokenizer(model, own) == ()
    assert model.config.pad_token_id == 0
    assert own.padding_side == "right"


def test_tokenizer_that_cannot_pad():
    with pytest.raises(ModelError, match="neither a pad nor an end-of-text token"):
        prepare_tokenizer(tiny_classifier("llama"), tokenizer())


def test_fingerprint_follows_the_weights():
    model = tiny_classifier("bert")
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(tiny_classifier("bert"))
    with torch.no_grad():
        model.classifier.bias[1] += 1e-7
    assert weights_fingerprint(model) != before
    assert weights_fingerprint(model.bfloat16()) != before


def test_fingerprint_takes_scalars():
    model = nn.BatchNorm1d(2)  # its number of batches is a tensor without dimensions
    assert weights_fingerprint(model) == weights_fingerprint(nn.BatchNorm1d(2))


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "undertow"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "undertow"
