import numpy as np
import pytest

from undertow.controls.selection import better_single, evidence
from undertow.controls.stacking import percentile


def test_evidence_is_the_auroc_of_each_kind_of_control():
    random = np.random.default_rng(0)
    rows, canaries, anchors = random.normal(size=500), random.normal(1, 1, 60), random.normal(-0.2, 1, 100)
    found = evidence(rows, canaries, anchors, np.ones(100))
    assert found.canaries == pytest.approx(np.mean([(rows < c).mean() for c in canaries]))
    assert found.anchors == pytest.approx(np.mean([(rows > a).mean() for a in anchors]))
    errors = np.array([found.canaries_error, found.anchors_error])
    assert errors == pytest.approx([percentile(v, rows).std() / np.sqrt(len(v)) for v in (canaries, anchors)])
    parts = 1 / errors**2
    assert found.combined == pytest.approx(parts @ [found.canaries, found.anchors] / parts.sum())


def test_one_kind_of_control_speaks_alone():
    random = np.random.default_rng(1)
    found = evidence(random.normal(size=50), random.normal(size=20), np.empty(0), np.empty(0))
    assert found.combined == pytest.approx(found.canaries)
    assert np.isnan(found.anchors)


def scores(random: np.random.Generator, apart: float, rows: int = 2000, anchors: int = 400):
    """A score of rows of which 40% are wrong, and of good anchors."""
    values = random.normal(size=rows)
    values[: round(0.4 * rows)] += apart
    return values, random.normal(size=anchors)


@pytest.mark.parametrize(("apart", "chosen"), [(4.0, 1), (0.5, None)])
def test_a_single_score_is_taken_only_where_it_is_surely_better(apart: float, chosen: int | None):
    random = np.random.default_rng(2)
    stack, others = scores(random, 0.5), [scores(random, a) for a in (0.2, apart, 0.3)]
    rows, anchors = (np.stack([o[i] for o in others]) for i in (0, 1))
    assert better_single(*stack, rows, anchors, np.ones(400)) == chosen


def test_chance_hardly_ever_overrules_the_stack():
    random, taken = np.random.default_rng(3), 0
    for seed in range(60):
        stack, others = scores(random, 1.0, 500, 60), [scores(random, 1.0, 500, 60) for _ in range(8)]
        rows, anchors = (np.stack([o[i] for o in others]) for i in (0, 1))
        taken += better_single(*stack, rows, anchors, np.ones(60), seed=seed) is not None
    assert taken <= 2
