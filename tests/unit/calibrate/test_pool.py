import numpy as np
import pytest

from undertow.calibrate.pool import pool_parts, pooled
from undertow.calibrate.told import Told, read_by


def opinions(n: int, strengths: list[float], classes: int = 2, seed: int = 0) -> tuple[list[Told], np.ndarray]:
    """What models with independent errors say of the same rows; strength 0 tells nothing."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    found = []
    for strength in strengths:
        scores = random.normal(size=(n, classes))
        scores[np.arange(n), labels] += strength
        logits = strength * scores
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        found.append(Told(p, labels, held_out=True))
    return found, labels


def halves(told: list[Told]) -> tuple[list[Told], list[Told]]:
    n = len(told[0])
    return [t.take(np.arange(n // 2)) for t in told], [t.take(np.arange(n // 2, n)) for t in told]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_pool_tells_classes_apart_better_than_each(classes):
    told, _ = opinions(4000, [1.0, 1.0, 0.8], classes)
    rows, trusted = halves(told)
    merged, known = pooled(rows, trusted)
    assert merged.held_out
    assert known.held_out
    assert merged.probabilities.sum(axis=1) == pytest.approx(1)
    best = max(read_by(t).separation for t in trusted)
    assert read_by(known).separation > best + 0.05
    assert read_by(merged).separation > best + 0.05


def test_a_pool_is_as_sure_as_it_is_right():
    told, _ = opinions(8000, [1.0, 0.7], seed=1)
    sure = [Told(t.probabilities**3 / (t.probabilities**3).sum(axis=1, keepdims=True), t.labels) for t in told]
    rows, trusted = halves(sure)
    merged, _ = pooled(rows, trusted)
    p = merged.probabilities[:, 1]
    for low in (0.1, 0.3, 0.5, 0.7):
        here = (p >= low) & (p < low + 0.2)
        assert merged.labels[here].mean() == pytest.approx(p[here].mean(), abs=0.06)


def test_what_tells_nothing_has_no_part():
    told, labels = opinions(3000, [1.0, 0.0, 0.0], seed=2)
    random = np.random.default_rng(0)
    told[1] = Told(random.dirichlet([1, 1], 3000), labels)
    parts, _ = pool_parts(np.log(np.stack([t.probabilities for t in told])), labels)
    assert parts[0] > 0.5
    assert parts[1] < 0.15
    assert (parts >= 0).all()


def test_copies_share_the_part_of_one():
    told, labels = opinions(2000, [1.0], seed=3)
    logs = np.log(told[0].probabilities)
    parts, _ = pool_parts(np.stack([logs, logs]), labels)
    assert parts[0] == pytest.approx(parts[1], abs=1e-3)


def test_the_pool_of_one_is_its_reading():
    told, _ = opinions(3000, [0.9], seed=4)
    rows, trusted = halves(told)
    merged, _ = pooled(rows, trusted)
    assert (merged.probabilities.argmax(axis=1) == rows[0].probabilities.argmax(axis=1)).mean() > 0.97


def test_labels_of_rows_are_kept_and_play_no_part():
    told, _ = opinions(400, [1.0, 0.5], seed=5)
    rows, trusted = halves(told)
    flipped = [Told(t.probabilities, 1 - t.labels, held_out=True) for t in rows]
    one, other = pooled(rows, trusted)[0], pooled(flipped, trusted)[0]
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(other.labels, flipped[0].labels)


def test_of_trusted_rows_is_said_what_a_pool_says_that_did_not_see_them():
    # Many models that know nothing: a pool that saw the labels of so few rows would find some use for them.
    random, n = np.random.default_rng(7), 120
    labels = random.integers(0, 2, n)
    told = [Told(random.dirichlet([1, 1], n), labels, held_out=True) for _ in range(8)]
    rows = [t.take(np.arange(0)) for t in told]
    known = pooled(rows, told)[1]
    readings = [read_by(t) for t in told]
    logs = np.stack([r.power * np.log(t.probabilities) + r.bias for t, r in zip(told, readings, strict=True)])
    parts, bias = pool_parts(logs - np.logaddexp.reduce(logs, axis=2)[:, :, None], labels)
    seen = np.tensordot(parts, logs - np.logaddexp.reduce(logs, axis=2)[:, :, None], 1) + bias
    seen = np.exp(seen - np.logaddexp.reduce(seen, axis=1)[:, None])
    own = np.arange(n), labels
    assert np.log(seen[own]).mean() > np.log(0.5)
    assert np.log(known.probabilities[own]).mean() < np.log(seen[own]).mean() - 0.01


def test_what_is_said_of_a_trusted_row_does_not_depend_on_its_label():
    told, _ = opinions(200, [1.0, 0.7], seed=6)
    rows, trusted = halves(told)
    other = trusted[0].labels.copy()
    other[3] = 1 - other[3]
    changed = [Told(t.probabilities, other, held_out=True) for t in trusted]
    one, two = pooled(rows, trusted)[1].probabilities, pooled(rows, changed)[1].probabilities
    assert one[3] == pytest.approx(two[3], abs=1e-4)
    assert not np.allclose(one, two, atol=1e-4)
