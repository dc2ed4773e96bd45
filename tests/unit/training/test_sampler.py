"""The order in which rows are trained on."""

import numpy as np
import pytest

from undertow.training.sampler import LengthBucketSampler


def random_lengths(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 129, n)


def padding(lengths: np.ndarray, order: list[int], batch_size: int) -> int:
    """Tokens that only fill up batches."""
    batches = [lengths[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return int(sum(batch.max() * len(batch) - batch.sum() for batch in batches))


@pytest.mark.parametrize("n", [0, 1, 5, 8, 9, 63, 64, 128, 129, 1000, 1003])
def test_every_row_once_an_epoch(n: int):
    sampler = LengthBucketSampler(random_lengths(n), 8, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(n))
    assert len(sampler) == n


def test_batches_are_of_similar_length():
    lengths = random_lengths(2000)
    order = list(LengthBucketSampler(lengths, 16, seed=0))
    shuffled = np.random.default_rng(0).permutation(2000).tolist()
    assert padding(lengths, order, 16) < 0.25 * padding(lengths, shuffled, 16)


def test_seed_and_epoch_fix_the_order():
    lengths = random_lengths(300)

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthBucketSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert orders == [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 6


def test_iterating_twice_gives_the_same():
    sampler = LengthBucketSampler(random_lengths(100), 8, seed=0)
    assert list(sampler) == list(sampler)


def test_epochs_draw_their_batches_anew():
    sampler = LengthBucketSampler(random_lengths(512), 8, seed=0)
    batches = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        batches.append({frozenset(order[start : start + 8]) for start in range(0, 512, 8)})
    assert len(batches[0] & batches[1]) < 4


def test_batches_are_not_ordered_by_length():
    lengths = random_lengths(2048)
    order = np.array(list(LengthBucketSampler(lengths, 16, seed=0)))
    means = lengths[order].reshape(-1, 16).mean(1)
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7


def test_rest_comes_last():
    # Full batches are cut from rows sorted by length; what fills none stays as it was drawn.
    lengths = random_lengths(407)
    order = list(LengthBucketSampler(lengths, 8, seed=0))
    full, rest = lengths[order[:400]].reshape(-1, 8), lengths[order[400:]]
    assert (np.diff(full, axis=1) >= 0).all()
    assert len(rest) == 7
    assert (np.diff(rest) < 0).any()


def test_fewer_rows_than_a_batch():
    assert sorted(LengthBucketSampler(random_lengths(3), 32, seed=0)) == [0, 1, 2]
