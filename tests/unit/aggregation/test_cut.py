"""How a harm score becomes a decision."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undertow.aggregation.cut import flag, harm_ranks

quick = settings(max_examples=30, deadline=None)
tied = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0])
harms = hnp.arrays(np.float64, st.integers(1, 30), elements=tied)


@quick
@given(harm=harms, seed=st.integers(0, 5))
def test_harm_ranks_are_a_permutation_that_follows_harm(harm: np.ndarray, seed: int):
    found = harm_ranks(harm, seed=seed)
    assert sorted(found.tolist()) == list(range(1, len(harm) + 1))
    assert (np.diff(harm[np.argsort(found)]) <= 0).all()
    np.testing.assert_array_equal(harm_ranks(harm, seed=seed), found)


def test_ties_are_not_broken_by_row_order():
    harm = np.array([0.0] * 200 + [1.0])
    first, second = harm_ranks(harm, seed=0), harm_ranks(harm, seed=1)
    assert first[-1] == second[-1] == 1
    assert not np.array_equal(first, second)
    # The lower rows are as likely as the upper to come first: 100 +- 4 standard deviations of their mean rank.
    assert abs(np.mean([harm_ranks(harm, seed=s)[:100].mean() for s in range(50)]) - 101.5) < 2.5


@quick
@given(harm=harms, share=st.floats(0, 1))
def test_flag_marks_the_worst_share(harm: np.ndarray, share: float):
    flagged = flag(harm_ranks(harm, seed=0), share)
    assert flagged.sum() == round(share * len(harm))
    if flagged.any() and not flagged.all():
        assert harm[flagged].min() >= harm[~flagged].max()
