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

    def fine_tuned(self, embedding: str) -> dict[str, Tensor]:
        """Gradients of the LoRA matrices and the head, and of the word embeddings of this name."""
        return {
            name: values
            for name, values in self.gradients.items()
            if ".lora_" in name or name.split(".")[0] in HEADS or name == embedding
        }


def reference_gradients(model: nn.Module, rows: Encoded) -> Reference:
    """Gradient of -log p(label) with respect to every parameter, module by module, without any padding."""
    model = copy.deepcopy(model).eval()
    named = {name: p for name, p in model.named_parameters() if "original_module" not in name}
    for parameter in named.values():
        parameter.requires_grad_(True)
    gradients: dict[str, list[Tensor]] = {}
    losses, probabilities = [], []
    for i in range(len(rows)):
        probability = torch.softmax(model(**one_row(rows, i)).logits[0], dim=0)
        loss = -torch.log(probability[int(rows.labels[i])])
        found = torch.autograd.grad(loss, list(named.values()))
        for name, flat in by_module(dict(zip(named, found, strict=True))).items():
            gradients.setdefault(name, []).append(flat)
        losses.append(loss.detach())
        probabilities.append(probability.detach())
    stacked = {name: torch.stack(values) for name, values in gradients.items()}
    return Reference(stacked, torch.stack(losses), torch.stack(probabilities))


def by_module(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients by parameter, flattened and joined to those of modules: the weight comes before the bias."""
    parts: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        parts.setdefault(module_name(name), []).append(gradient.flatten())
    return {name: torch.cat(flat) for name, flat in parts.items()}


def one_row(rows: Encoded, i: int) -> dict[str, Tensor]:
    """A batch of one sample."""
    ids = torch.tensor([rows.input_ids[i]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if rows.token_type_ids is not None:
        batch["token_type_ids"] = torch.tensor([rows.token_type_ids[i]])
    return batch


def module_name(parameter: str) -> str:
    """A parameter's module without what an adapter puts around it."""
    path = re.sub(r"\.(weight|bias)$", "", parameter).replace("base_model.model.", "", 1)
    for wrapper in (".modules_to_save", ".base_layer", ".default"):
        path = path.replace(wrapper, "")
    return path
