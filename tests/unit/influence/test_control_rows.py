"""Control rows are scored like all others, and change nothing that is said of the user's rows."""

import numpy as np
import pytest
import torch

from undertow.aggregation.blocks import Held
from undertow.aggregation.engine import Engine
from undertow.aggregation.jobs import Request
from undertow.aggregation.names import AGGREGATION_NAMES, AGGREGATIONS
from undertow.aggregation.queries import Queries
from undertow.aggregation.ranks import ranks, ranks_among
from undertow.aggregation.rows import module_sum, transform
from undertow.influence.block import GradientBlock
from undertow.influence.estimators import ESTIMATORS
from undertow.influence.moments import Moments
from undertow.influence.store import ANCHOR, CANARY, ROW, influence_dataset, row_count, user_rows

from .stores import KEYS

ROWS, CONTROLS, QUERIES, SIZE = 12, 5, 4, 6
DENSE = sorted(set(ESTIMATORS) - {"tracin-we", "tracin-we-k", "tracin-we-k-pair"})


def gradients(seed: int, rows: int) -> torch.Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed))


def moments() -> Moments:
    return Moments(gradients(8, 1)[0], gradients(9, 1)[0].abs(), 4)


@pytest.mark.parametrize("name", DENSE)
def test_estimators_fit_on_the_users_rows_alone(name: str):
    queries, samples, controls = gradients(0, QUERIES), gradients(1, ROWS), 5 * gradients(2, CONTROLS)
    alone = ESTIMATORS[name](GradientBlock(queries, samples, moments()))
    both = ESTIMATORS[name](GradientBlock(queries, torch.cat([samples, controls]), moments(), rows=ROWS))
    torch.testing.assert_close(both[:, :ROWS], alone, rtol=1e-4, atol=1e-5)
    # A control row with the gradient of a user's row has its influence.
    twins = ESTIMATORS[name](GradientBlock(queries, torch.cat([samples, samples[:3]]), moments(), rows=ROWS))
    torch.testing.assert_close(twins[:, ROWS:], alone[:, :3], rtol=1e-4, atol=1e-5)


def test_the_rank_of_a_control_row_is_its_place_among_the_users_rows():
    values = np.random.default_rng(0).integers(0, 6, (3, ROWS + CONTROLS)).astype(np.float32)
    found = ranks_among(values, ROWS)
    expected = (values[:, None, :ROWS] < values[:, :, None]).sum(axis=2)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ranks_among(values, ROWS + CONTROLS), ranks(values))


SUMS = [name for name in AGGREGATION_NAMES if AGGREGATIONS[name].form != "order"]


@pytest.mark.parametrize("how", SUMS)
def test_aggregations_of_the_users_rows_ignore_control_rows(how: str):
    influence = np.random.default_rng(1).normal(size=(3, QUERIES, ROWS + CONTROLS)).astype(np.float32)
    request = Request(how, (0, 1, 2))

    def score(values: np.ndarray, among: int) -> np.ndarray:
        return Engine(Held(values, None), Queries(QUERIES), among=among).answers([request])[0].score

    alone, both = score(influence[:, :, :ROWS], ROWS), score(influence, ROWS)
    np.testing.assert_allclose(both[:ROWS], alone, rtol=1e-12)
    twin = np.concatenate([influence[:, :, :ROWS], influence[:, :, :1]], axis=2)
    np.testing.assert_allclose(score(twin, ROWS)[-1], alone[0], rtol=1e-12)


@pytest.mark.parametrize("how", ["rank", "vote", "vote-all", "standardised"])
def test_scores_that_are_kept_ignore_control_rows(how: str):
    influence = np.random.default_rng(2).normal(size=(QUERIES, ROWS + CONTROLS)).astype(np.float32)
    what, weights = transform(how, 0.3, ROWS), np.ones((1, QUERIES))
    alone = module_sum(influence[:, :ROWS], what, weights, np.zeros(ROWS, dtype=int))
    both = module_sum(influence, what, weights, np.zeros(ROWS + CONTROLS, dtype=int), ROWS)
    np.testing.assert_allclose(both[:ROWS], alone, rtol=1e-12)


def test_a_tensor_knows_its_control_rows():
    control = np.array([ROW, ROW, CANARY, ANCHOR])
    frame = influence_dataset(["cosine"], KEYS, np.arange(2), np.array([0, 1, 1, 0]), control=control)
    assert row_count(frame) == 2
    assert user_rows(frame)["sample"].values.tolist() == [0, 1]
    plain = influence_dataset(["cosine"], KEYS, np.arange(2), np.arange(4))
    assert row_count(plain) == 4
