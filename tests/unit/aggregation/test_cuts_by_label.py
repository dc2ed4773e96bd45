import numpy as np

from undertow.aggregation.stability import Bootstrap, stability


def test_each_label_has_a_cut_of_its_own():
    harm = np.tile(np.arange(10, dtype=float), (4, 1))  # the same in every resample
    labels = np.array([0, 1] * 5)
    found = stability(harm, Bootstrap(4, labels=labels, cuts=np.array([0.2, 0.6])))
    assert np.flatnonzero(found.flagged == 1).tolist() == [5, 7, 8, 9]
    assert set(found.flagged.tolist()) == {0.0, 1.0}
    whole = stability(harm, Bootstrap(4, cut=0.3))
    assert np.flatnonzero(whole.flagged == 1).tolist() == [7, 8, 9]
