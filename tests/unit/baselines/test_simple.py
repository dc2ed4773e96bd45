"""Harm scores without influence: higher is worse."""

import numpy as np

from undertow.baselines.simple import loss_harm, random_harm


def test_loss_is_harm():
    assert loss_harm(np.array([0.1, 2.0, 0.5])).argmax() == 1


def test_random_is_repeatable_by_seed():
    first = random_harm(500, seed=3)
    assert first.shape == (500,)
    assert ((first >= 0) & (first < 1)).all()
    np.testing.assert_array_equal(random_harm(500, seed=3), first)
    assert not np.array_equal(random_harm(500, seed=4), first)
