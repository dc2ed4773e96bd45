"""In which form the gradients of each module are held."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import PAD, adapted_classifier, random_rows, tiny_classifier
from torch import Tensor, nn

from undertow.errors import ModelError
from undertow.gradients import layouts
from undertow.gradients.layouts import LARGE, SMALL, Layout, plan_layouts
from undertow.gradients.store import stored_bytes
from undertow.models.keys import ModuleKey
from undertow.models.modules import tracked_modules

from .collecting import planned


class Sizes(nn.Module):
    """Linear layers of several sizes; the second half of them sees one vector a sample."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.tokens = nn.ModuleDict({f"of_{w}": nn.Linear(8, w, bias=False) for w in widths})
        self.pooled = nn.ModuleDict({f"of_{w}": nn.Linear(8, w, bias=False) for w in widths})
        self.score = nn.Linear(8, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        extra = sum(layer(hidden).mean() for layer in self.tokens.values())
        extra = extra + sum(layer(hidden[:, 0]).mean() for layer in self.pooled.values())
        return SimpleNamespace(logits=self.score(hidden[:, 0]) + extra)


def test_small_layers_are_dense_large_ones_factored_others_what_is_smaller():
    # 8 x 512 is SMALL still, 8 x 8192 is LARGE still; ten tokens of 8 + w numbers are more than 8 w.
    assert (SMALL, LARGE) == (8 * 512, 8 * 8192)
    _, plans = planned(Sizes(512, 520, 8192, 8200), random_rows((10, 10, 10)))
    forms = {layout.key.name: (layout.form, layout.pooled) for layout in plans}
    assert forms == {
        "embedding": ("sparse", False),
        "score": ("dense", True),
        **{f"tokens.of_{w}": ("dense", False) for w in (512, 520, 8192)},
        "tokens.of_8200": ("factored", False),
        "pooled.of_512": ("dense", True),
        **{f"pooled.of_{w}": ("factored", True) for w in (520, 8192, 8200)},
    }
    # Of few tokens the factors are the smaller ones.
    _, plans = planned(Sizes(520), random_rows((3, 5)))
    assert {layout.form for layout in plans if layout.key.name == "tokens.of_520"} == {"factored"}


@pytest.mark.parametrize(
    ("changes", "floats"),
    [
        ({}, 15.0),
        ({"project": 2}, 4.0),
        ({"form": "factored"}, 4 * 8.0),
        ({"form": "factored", "runs": 2}, 8 * 8.0),
        ({"form": "factored", "pooled": True}, 8.0),
        ({"form": "sparse", "operation": "embedding"}, 3 * 3.0),
    ],
)
def test_numbers_held_a_sample(changes: dict[str, object], floats: float):
    key = ModuleKey("m", None, "m", "weight", "other", 15)
    layout = Layout(key, **{"form": "dense", "operation": "linear", "inputs": 5, "outputs": 3, **changes})
    assert layout.floats(4.0, 3.0) == floats
    rows = random_rows((4, 4))
    rows.input_ids[:] = [[7, 7, 8, 9], [1, 2, 2, 3]]
    assert stored_bytes([layout, layout], rows, torch.float16) == 2 * 2 * 2 * floats


def test_what_modules_see():
    # The head and its pooler see one vector a sample, and so does what the last layer computes for it.
    _, plans = planned(tiny_classifier("bert"), random_rows((5, 9, 2)))
    pooled = {layout.key.name for layout in plans if layout.pooled}
    last = "bert.encoder.layer.1"
    assert pooled == {
        f"{last}.attention.output.dense",
        f"{last}.intermediate.dense",
        f"{last}.output.dense",
        "bert.pooler.dense",
        "classifier",
    }
    words = next(layout for layout in plans if layout.operation == "embedding")
    assert (words.inputs, words.outputs, words.padding) == (50, 16, PAD)
    assert not any(layout.shared or layout.runs != 1 for layout in plans)


def test_what_modules_see_of_one_token_is_not_taken_for_a_pooled_input():
    _, of_one = planned(tiny_classifier("bert"), random_rows((1, 1)))
    _, of_more = planned(tiny_classifier("bert"), random_rows((5, 9, 2)))
    assert [layout.pooled for layout in of_one] == [layout.pooled for layout in of_more]


@pytest.mark.parametrize("lengths", [(5, 9, 2), (6,)], ids=["several rows", "one row"])
def test_what_all_samples_share(lengths: tuple[int, ...]):
    # Relative positions are one input for the whole batch; keys and queries see them beside the tokens.
    _, plans = planned(tiny_classifier("deberta-v2"), random_rows(lengths))
    sharing = {layout.key.name: layout.runs for layout in plans if layout.shared}
    assert sharing == {
        "deberta.encoder.LayerNorm": 1,
        **{f"deberta.encoder.layer.{layer}.attention.self.{p}_proj": 2 for layer in (0, 1) for p in ("query", "key")},
    }
    assert {layout.form for layout in plans if layout.shared} == {"dense"}


def test_shared_input_is_never_factored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layouts, "LARGE", 0)
    monkeypatch.setattr(layouts, "SMALL", 0)
    # Eight relative positions look like the eight tokens of a text.
    _, plans = planned(tiny_classifier("deberta-v2"), random_rows((6, 8)))
    assert {layout.form for layout in plans if layout.shared} == {"dense"}
    assert {layout.form for layout in plans if layout.operation == "linear" and not layout.shared} == {"factored"}


def test_modules_that_do_not_run_are_named():
    class Idle(Sizes):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.score(self.embedding(input_ids)[:, 0]))

    with pytest.raises(ModelError) as caught:
        planned(Idle(4, 5), random_rows((3, 4)))
    assert str(caught.value).startswith(
        "4 of the modules to track take no part in the forward pass: tokens.of_4, tokens.of_5, pooled.of_4, "
        "pooled.of_5. Leave them out with --track"
    )
    assert len(planned(Idle(4, 5), random_rows((3, 4)), track=("head", "embedding"))[1]) == 2


def test_planning_leaves_the_model_as_it_was():
    model, rows = adapted_classifier("roberta"), random_rows((3, 7))
    model.train()
    model.base_model.model.classifier.eval()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    plan_layouts(model, tracked_modules(model), rows, pad_id=PAD)
    assert [m.training for m in model.modules()] == modes
    assert set(modes) == {True, False}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)  # no dropout was drawn
