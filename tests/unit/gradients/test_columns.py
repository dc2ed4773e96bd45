"""Distinct words, projections, and the arrays that batches are written to."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import random_rows, tiny_classifier
from torch import Tensor

from undertow.data.tokenize import Encoded
from undertow.errors import ConfigError
from undertow.gradients import layouts
from undertow.gradients.collect import collect_gradients
from undertow.gradients.columns import (
    Batch,
    DenseColumn,
    FactoredColumn,
    SharedInputError,
    SparseColumn,
    distinct_words,
    projection,
)
from undertow.gradients.layouts import Layout
from undertow.gradients.store import GradientStore
from undertow.models.keys import ModuleKey

from .collecting import dense, planned
from .reference import reference_gradients


def rows_of(ids: list[list[int]]) -> Encoded:
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    return Encoded(ids, None, np.zeros(len(ids), dtype=np.int64), lengths, 0)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from([None, 0, 3, 6]),
)
def test_distinct_words(ids: list[list[int]], padding: int | None):
    words = distinct_words(rows_of(ids), 7, padding)
    for sample, row in enumerate(ids):
        first, last = int(words.starts[sample]), int(words.starts[sample + 1])
        tokens = words.tokens[first:last].tolist()
        assert tokens == sorted(set(row) - {padding})
        assert words.counts[first:last].tolist() == [row.count(token) for token in tokens]
        begin, end = int(words.offsets[sample]), int(words.offsets[sample + 1])
        for token, place in zip(row, words.rows[begin:end].tolist(), strict=True):
            assert place == (-1 if token == padding else first + tokens.index(token))
    assert int(words.starts[-1]) == len(words.tokens)
    assert int(words.offsets[-1]) == sum(map(len, ids))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from([None, 0]),
    st.data(),
)
def test_occurrences_of_a_word_add_up(ids: list[list[int]], padding: int | None, data: st.DataObject):
    encoded, width = rows_of(ids), 2
    layout = Layout(ModuleKey("e", None, "e", "weight", "embedding", 10), "sparse", "embedding", 5, width)
    column = SparseColumn(
        layout, torch.float64, lambda *a: torch.zeros(a[1], dtype=a[2]), distinct_words(encoded, 5, padding)
    )
    expected = torch.zeros(len(ids), 5, width).double()
    positions = data.draw(st.permutations(range(len(ids))))
    cut = data.draw(st.integers(0, len(ids)))
    torch.manual_seed(0)
    for some in (positions[:cut], positions[cut:]):
        if not some:
            continue
        longest = max(len(ids[p]) for p in some)
        delta = torch.randn(len(some), longest, width).double()  # what stands behind the end is never looked at
        mask = torch.tensor([[place < len(ids[p]) for place in range(longest)] for p in some])
        for row, p in enumerate(some):
            for place, token in enumerate(ids[p]):
                if token != padding:
                    expected[p, token] += delta[row, place]
        batch = Batch(torch.tensor(some), mask)
        column.receive(batch, None, delta)
        assert column.commit(batch).tolist() == [True] * len(some)
    torch.testing.assert_close(column.matrix().rows(slice(0, len(ids))), expected.flatten(1))


def test_a_column_takes_one_input_a_sample_only():
    layout = Layout(ModuleKey("m", None, "m", "weight", "other", 6), "dense", "linear", 3, 2)
    column = DenseColumn(layout, 4, torch.float32, lambda *a: torch.zeros(a[1], dtype=a[2]))
    batch = Batch(torch.tensor([0, 2, 3]), torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(SharedInputError):
        column.receive(batch, torch.ones(1, 5, 3), torch.ones(1, 5, 2))


def test_a_batch_that_was_cut_short_leaves_nothing():
    layout = Layout(ModuleKey("m", None, "m", "weight", "other", 6), "dense", "linear", 3, 2)
    column = DenseColumn(layout, 4, torch.float32, lambda *a: torch.zeros(a[1], dtype=a[2]))
    batch = Batch(torch.tensor([1]), torch.ones(1, 5, dtype=torch.bool))
    column.receive(batch, torch.ones(1, 5, 3), torch.ones(1, 5, 2))
    column.discard()
    assert column.values.abs().sum() == 0
    column.receive(batch, torch.ones(1, 5, 3), torch.ones(1, 5, 2))
    column.commit(batch)
    assert column.values.tolist() == [[0] * 6, [5] * 6, [0] * 6, [0] * 6]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, 1e6])
def test_which_samples_of_a_batch_are_finite(bad: float):
    allocate = lambda *a: torch.zeros(a[1], dtype=a[2])  # noqa: E731
    encoded = rows_of([[1, 2], [3, 3], [4, 1]])
    batch = Batch(torch.tensor([2, 0, 1]), torch.ones(3, 2, dtype=torch.bool))
    key = ModuleKey("m", None, "m", "weight", "other", 6)
    layer = Layout(key, "dense", "linear", 3, 2)
    columns = [
        DenseColumn(layer, 3, torch.float16, allocate),
        FactoredColumn(layer, 3, torch.float16, allocate, torch.from_numpy(encoded.lengths)),
        SparseColumn(
            Layout(key, "sparse", "embedding", 5, 2), torch.float16, allocate, distinct_words(encoded, 5, None)
        ),
    ]
    for column in columns:
        for row in range(3):
            x, delta = torch.ones(3, 2, 3), torch.ones(3, 2, 2)
            delta[row, 1, 0] = bad
            column.receive(batch, x, delta)
            assert column.commit(batch).tolist() == [r != row for r in range(3)]
        # Large numbers whose sum overflows are finite nonetheless.
        wide = torch.full((3, 2, 2), 3e38)
        wide[:, 1] = 0
        column.dtype = torch.float32
        column.__post_init__()
        column.receive(batch, torch.ones(3, 2, 3), wide)
        assert column.commit(batch).tolist() == [True] * 3


def test_projection_depends_on_its_name_alone():
    first, again, other = projection(20, 4, "0 a"), projection(20, 4, "0 a"), projection(20, 4, "1 a")
    assert first.shape == (20, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    assert torch.equal(projection(20, 4, "0 a"), first)


@pytest.mark.parametrize("rows", [5, 6, 100])
def test_projection_that_saves_nothing_is_the_identity(rows: int):
    assert torch.equal(projection(5, rows, "0 a"), torch.eye(5))


def test_projection_keeps_inner_products_in_expectation():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, generator=generator), torch.randn(30, generator=generator)
    x = x + y
    rows, seeds = 5, 2000
    found = torch.stack([(x @ p) @ (y @ p) for p in (projection(30, rows, f"{s} m") for s in range(seeds))]).double()
    exact = float(x @ y)
    # Var <Px, Py> = (|x|^2 |y|^2 + <x, y>^2) / rows.
    deviation = ((float(x @ x) * float(y @ y) + exact**2) / rows) ** 0.5
    assert abs(float(found.mean()) - exact) < 4 * deviation / seeds**0.5
    assert float(found.std()) == pytest.approx(deviation, rel=0.2)


def two_sided(gradient: Tensor, layout: Layout) -> Tensor:
    """R^T G L for the gradients G [out, in + bias] of each sample, flattened."""
    cells = layout.inputs * layout.outputs
    shape = (layout.inputs, layout.outputs) if layout.transposed else (layout.outputs, layout.inputs)
    weight = gradient[:, :cells].reshape(-1, *shape)
    weight = weight.transpose(1, 2) if layout.transposed else weight
    if layout.bias:
        weight = torch.cat([weight, gradient[:, cells:, None]], dim=2)
    left = projection(layout.inputs + layout.bias, layout.project, f"{layout.seed} {layout.key.name} inputs").double()
    right = projection(layout.outputs, layout.project, f"{layout.seed} {layout.key.name} outputs").double()
    return (right.T @ weight @ left).flatten(1)


@pytest.mark.parametrize("project", [1, 5, 16])
@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
def test_projected_gradients(family: str, project: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layouts, "LARGE", 0)  # a projection goes before factors
    model, rows = tiny_classifier(family), random_rows((5, 2, 9, 1))
    expected = reference_gradients(model, rows).gradients
    modules, _ = planned(model, rows)
    plans = layouts.plan_layouts(model, modules, rows, pad_id=0, project=project, seed=3)
    store = GradientStore(plans, rows, dtype=torch.float64)
    collect_gradients(model, modules, rows, store, pad_id=0, token_budget=20)
    projected = 0
    for position, layout in enumerate(plans):
        wanted = expected[layout.key.name]
        if layout.project is not None:
            projected += 1
            assert project**2 < layout.key.size
            assert layout.seed == 3
            assert layout.size == min(project, layout.inputs + layout.bias) * min(project, layout.outputs)
            wanted = two_sided(wanted, layout)
        else:
            assert layout.operation != "linear" or project**2 >= layout.key.size
        found = dense(store, position)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()), msg=layout.key.name)
    assert projected


@pytest.mark.parametrize("project", [0, -3])
def test_projections_of_nothing_are_refused(project: int):
    model, rows = tiny_classifier("bert"), random_rows((3, 4))
    with pytest.raises(ConfigError, match=rf"--project {project} is not accepted\. It is a whole number from 1"):
        planned(model, rows, project=project)
