"""Per-sample gradients the slow way: one sample at a time, by autograd, in float64."""

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertow.data.tokenize import Encoded

HEADS = ("classifier", "pre_classifier", "score")


@dataclass(frozen=True)
class Reference:
    """Gradients [n, size] by module name, losses [n] and class probabilities [n, classes]."""

    gradients: dict[str, Tensor]
    loss: Tensor
    probabilities: Tensor


def reference_gradients(model: nn.Module, rows: Encoded) -> Reference:
    """Gradient of -log p(label) with respect to the LoRA matrices and the head, without any padding."""
    model = copy.deepcopy(model).eval()
    named = {name: p for name, p in model.named_parameters() if _tracked(name)}
    for parameter in named.values():
        parameter.requires_grad_(True)
    gradients: dict[str, list[Tensor]] = {}
    losses, probabilities = [], []
    for i in range(len(rows.labels)):
        probability = torch.softmax(model(**_one(rows, i)).logits[0], dim=0)
        loss = -torch.log(probability[int(rows.labels[i])])
        found = torch.autograd.grad(loss, list(named.values()))
        parts: dict[str, list[Tensor]] = {}
        for name, gradient in zip(named, found, strict=True):  # weight comes before bias
            parts.setdefault(_module(name), []).append(gradient.flatten())
        for name, flat in parts.items():
            gradients.setdefault(name, []).append(torch.cat(flat))
        losses.append(loss.detach())
        probabilities.append(probability.detach())
    stacked = {name: torch.stack(values) for name, values in gradients.items()}
    return Reference(stacked, torch.stack(losses), torch.stack(probabilities))


def _one(rows: Encoded, i: int) -> dict[str, Tensor]:
    ids = torch.tensor([rows.input_ids[i]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if rows.token_type_ids is not None:
        batch["token_type_ids"] = torch.tensor([rows.token_type_ids[i]])
    return batch


def _tracked(name: str) -> bool:
    if "original_module" in name:
        return False
    return "lora_A" in name or "lora_B" in name or _module(name).split(".")[0] in HEADS


def _module(parameter: str) -> str:
    path = re.sub(r"\.(weight|bias)$", "", parameter)
    return path.replace("base_model.model.", "", 1).replace(".modules_to_save", "").replace(".default", "")
