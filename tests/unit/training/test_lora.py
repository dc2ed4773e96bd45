"""The LoRA adapter that a fine-tuning starts with; pytest turns any warning of peft into an error."""

from pathlib import Path

import pytest
import torch
from tiny_models import QUERY_VALUE, random_rows, tiny_classifier
from torch import Tensor, nn

from undertow.models.architectures import default_lora_targets
from undertow.models.loading import with_adapter
from undertow.training.lora import attach_lora


def adapted(family: str) -> nn.Module:
    """A classifier whose adapter says something: lora_B starts at zero."""
    model = attach_lora(tiny_classifier(family), rank=3, alpha=5.0, dropout=0.0).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.4 * torch.randn_like(parameter))
    return model


def logits(model: nn.Module) -> Tensor:
    rows = torch.tensor(random_rows((6, 6)).input_ids)
    with torch.no_grad():
        return model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits


@pytest.mark.parametrize("family", ["bert", "gpt2", "phi3"])
def test_weights_are_transposed_where_the_layers_hold_them_so(family: str, tmp_path: Path):
    model = adapted(family)
    assert set(default_lora_targets(model.get_base_model())) == set(QUERY_VALUE[family])
    assert model.peft_config["default"].fan_in_fan_out == (family == "gpt2")
    said = logits(model)
    assert not torch.allclose(said, logits(tiny_classifier(family)))
    model.save_pretrained(tmp_path)
    again = with_adapter(tiny_classifier(family), tmp_path, 2).double()
    torch.testing.assert_close(logits(again), said)
    torch.testing.assert_close(logits(model.merge_and_unload()), said)  # adds B A to the weight, either way round
