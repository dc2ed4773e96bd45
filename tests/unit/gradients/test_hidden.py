"""Hidden states against the plain model, one sample at a time and without padding."""

import numpy as np
import pytest
import torch
from tiny_models import PAD, QUERY_VALUE, WIDTH, adapted_classifier, random_rows, tiny_classifier
from torch import nn

from undertow.data.tokenize import Encoded
from undertow.errors import ConfigError, ModelError, TrainingError
from undertow.gradients.hidden import QUARTERS, hidden_states

FAMILIES = sorted(QUERY_VALUE)
# Families that take their attention's softmax in float32 whatever the model is in.
INSIDE_FLOAT32 = {"gemma2": 1e-6}
LENGTHS = (3, 9, 1, 17, 9, 4, 12, 30)


def alone(model: nn.Module, rows: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """States at the last token and their mean over tokens, [layer, n, h]: no batches, no padding."""
    last, mean = [], []
    for place, ids in enumerate(rows.input_ids):
        batch = {"input_ids": torch.tensor([ids])}
        if rows.token_type_ids is not None:
            batch["token_type_ids"] = torch.tensor([rows.token_type_ids[place]])
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states
        last.append([s[0, -1].tolist() for s in states])
        mean.append([[sum(column) / len(ids) for column in s[0].T.tolist()] for s in states])
    return np.array(last).swapaxes(0, 1), np.array(mean).swapaxes(0, 1)


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_sample_at_a_time(family: str, adapted: bool):
    model = adapted_classifier(family) if adapted else tiny_classifier(family)
    rows = random_rows(LENGTHS, token_types=family == "bert")
    found = hidden_states(model, rows, pad_id=PAD, token_budget=40)
    last, mean = alone(model, rows)
    assert found.layers == (0, 1, 2)
    assert found.last.shape == (3, len(LENGTHS), WIDTH)
    assert found.last.dtype == np.float64
    atol = INSIDE_FLOAT32.get(family, 1e-12)
    np.testing.assert_allclose(found.last, last, rtol=0, atol=atol)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=atol)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("budget", [1, 30, 64, 100_000])
def test_batches_change_nothing(family: str, budget: int):
    model, rows = tiny_classifier(family), random_rows(LENGTHS)
    found = hidden_states(model, rows, pad_id=PAD, token_budget=budget)
    expected = hidden_states(model, rows, pad_id=PAD)
    for how in ("last", "mean"):
        np.testing.assert_allclose(getattr(found, how), getattr(expected, how), rtol=0, atol=1e-12)


def test_layers_and_pooling_that_are_asked_for():
    model, rows = tiny_classifier("llama", layers=3), random_rows(LENGTHS)
    whole = hidden_states(model, rows, pad_id=PAD)
    assert whole.layers == (0, 1, 2, 3)
    some = hidden_states(model, rows, pad_id=PAD, layers=(-1, 0, 2), pooling=("mean",))
    assert some.layers == (3, 0, 2)
    assert some.last is None
    np.testing.assert_array_equal(some.mean, whole.mean[[3, 0, 2]])
    assert hidden_states(model, rows, pad_id=PAD, layers=[1], pooling=["last"]).mean is None


@pytest.mark.parametrize(
    ("layers", "quarters"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 3, 4)), (6, (2, 3, 5, 6))]
)
def test_layers_at_the_ends_of_quarters(layers: int, quarters: tuple[int, ...]):
    model, rows = tiny_classifier("bert", layers=layers), random_rows(LENGTHS)
    whole = hidden_states(model, rows, pad_id=PAD)
    some = hidden_states(model, rows, pad_id=PAD, layers=QUARTERS)
    assert some.layers == quarters
    np.testing.assert_array_equal(some.mean, whole.mean[list(quarters)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_models_give_float32(dtype: torch.dtype):
    model, rows = tiny_classifier("bert"), random_rows(LENGTHS)
    wide = hidden_states(model, rows, pad_id=PAD)
    found = hidden_states(model.to(dtype), rows, pad_id=PAD)
    assert found.last.dtype == found.mean.dtype == np.float32
    np.testing.assert_allclose(found.last, wide.last, atol=1e-5 if dtype == torch.float32 else 0.3)


def test_the_mean_of_a_bfloat16_model_is_taken_in_float32():
    model, rows = tiny_classifier("llama").bfloat16(), random_rows((9, 9))
    batch = torch.tensor(rows.input_ids)
    with torch.no_grad():
        states = model(input_ids=batch, output_hidden_states=True).hidden_states[1]
    found = hidden_states(model, rows, pad_id=PAD, layers=[1])
    np.testing.assert_allclose(found.mean[0], states.double().mean(1), rtol=0, atol=1e-6)


def test_dropout_is_off_and_nothing_is_trained():
    model, rows = tiny_classifier("bert"), random_rows(LENGTHS)
    expected = hidden_states(model, rows, pad_id=PAD)
    found = hidden_states(model.train(), rows, pad_id=PAD)
    np.testing.assert_array_equal(found.last, expected.last)
    assert all(p.grad is None for p in model.parameters())


def test_progress_counts_samples():
    seen: list[int] = []
    hidden_states(tiny_classifier("bert"), random_rows(LENGTHS), pad_id=PAD, token_budget=30, advance=seen.append)
    assert sum(seen) == len(LENGTHS)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0, 3]}, r"no hidden states of layer 3\. It has layers 0 .the embeddings. to 2"),
        ({"layers": [-4]}, "of layer -4"),
        ({"layers": []}, "No layer is named"),
        ({"layers": "halves"}, "'halves'.*'quarters'"),
        ({"pooling": ["first"]}, r"is 'first'\. Known are: last, mean"),
        ({"pooling": []}, "is nothing"),
    ],
)
def test_bad_options(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        hidden_states(tiny_classifier("bert"), random_rows(LENGTHS), pad_id=PAD, **options)


def test_states_that_are_not_finite_are_named():
    model, rows = tiny_classifier("bert"), random_rows((4, 5, 6))
    rows.input_ids[:] = [[7] * 4, [7, 7, 49, 7, 7], [7] * 6]
    with torch.no_grad():
        model.get_input_embeddings().weight[49] = torch.nan
    with pytest.raises(TrainingError, match=r"of 1 of 3 samples are not finite .positions 1."):
        hidden_states(model, rows, pad_id=PAD)


def test_a_model_without_hidden_states():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, attention_mask, output_hidden_states):
            return {"logits": self.weight}

    with pytest.raises(ModelError, match="Bare gives no hidden states"):
        hidden_states(Bare(), random_rows(LENGTHS), pad_id=PAD)
