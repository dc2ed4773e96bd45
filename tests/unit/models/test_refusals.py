"""Models whose per-sample gradients are not those of linear maps, norms and embeddings that run."""

import warnings
from collections import OrderedDict

import pytest
from peft import IA3Config, LoraConfig, TaskType, get_peft_model
from tiny_models import adapted_classifier, tiny_classifier, with_lora
from torch import nn

from undertow.errors import ModelError
from undertow.models.modules import tracked_modules


def test_dora_is_refused():
    model = with_lora(tiny_classifier("bert"), ["query"], use_dora=True)
    with pytest.raises(ModelError, match=r"DoRA.*--finetune always"):
        tracked_modules(model)


def test_adapted_embeddings_are_refused():
    model = with_lora(tiny_classifier("bert"), ["query", "word_embeddings"])
    with pytest.raises(ModelError) as caught:
        tracked_modules(model)
    assert str(caught.value).startswith(
        "The adapter adapts bert.embeddings.word_embeddings, which is not a linear layer but an embedding; "
    )


def test_adapted_convolutions_are_refused():
    model = get_peft_model(nn.Sequential(OrderedDict(conv=nn.Conv1d(4, 4, 1))), LoraConfig(target_modules=["conv"]))
    with pytest.raises(ModelError, match=r"adapts conv, which is not a linear layer but Conv1d; .*--target-modules"):
        tracked_modules(model)


def test_embeddings_of_some_tokens_are_refused():
    model = with_lora(tiny_classifier("llama"), ["q_proj"], trainable_token_indices=[3, 5])
    with pytest.raises(ModelError, match=r"some tokens only \(trainable_token_indices\).*modules_to_save"):
        tracked_modules(model)


def test_two_adapters_are_refused():
    model = adapted_classifier("bert")
    model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(ModelError, match=r"carries 2 adapters \(default, second\)"):
        tracked_modules(model)


def test_other_adapters_are_refused():
    config = IA3Config(task_type=TaskType.SEQ_CLS, target_modules=["query"], feedforward_modules=[])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        model = get_peft_model(tiny_classifier("bert"), config)
    with pytest.raises(ModelError, match="type IA3; only LORA"):
        tracked_modules(model)


@pytest.mark.parametrize(
    ("away", "back"),
    [("merge_adapter", "unmerge_adapter"), ("disable_adapter_layers", "enable_adapter_layers")],
)
def test_adapter_that_takes_no_part_is_refused(away: str, back: str):
    # Its A and B never run, so their gradients would silently be zero.
    model = adapted_classifier("llama")
    getattr(model, away)()
    with pytest.raises(ModelError, match=rf"takes no part.*{back}\(\)"):
        tracked_modules(model)
    getattr(model, back)()
    assert tracked_modules(model)


def test_nothing_to_track_is_refused():
    with pytest.raises(ModelError, match=r"Sequential has nothing of what is to be tracked \(auto\)\. Pass a"):
        tracked_modules(nn.Sequential(nn.Tanh()))
    with pytest.raises(ModelError, match=r"BertForSequenceClassification has nothing .* \(lora\)\."):
        tracked_modules(tiny_classifier("bert"), ("lora",))
