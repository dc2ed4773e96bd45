"""Identification of a query's class against values worked out by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undertow.metrics.identification import identification, identification_summary

CLASSES = np.array(["a", "a", "b", "b", "b"])


def test_by_hand():
    influence = np.array([[3.0, 1.0, 2.0, 0.0, -5.0], [3.0, 1.0, 2.0, 0.0, -5.0]])
    found = identification(influence, np.array(["a", "b"]), CLASSES)
    # Query of class a: both of a beat 0 and -5, one beats 2: 5 of 6. Of the two largest (3 and 2) one is of a.
    # Query of class b: 1 of 6; of the three largest (3, 2, 1) one of three.
    assert found["auc"].tolist() == pytest.approx([5 / 6, 1 / 6])
    assert found["recall"].tolist() == pytest.approx([1 / 2, 1 / 3])
    summary = identification_summary(found)
    assert summary.loc["auc", "mean"] == pytest.approx(1 / 2)
    assert summary.loc["auc", "std"] == pytest.approx(np.sqrt(2) / 3)
    assert summary["queries"].tolist() == [2, 2]


def test_sizes_alone():
    influence = np.array([[3.0, 1.0, 2.0, 0.0, -5.0]])
    found = identification(influence, np.array(["a"]), CLASSES, absolute=True)
    assert found["auc"].tolist() == pytest.approx([3 / 6])
    assert found["recall"].tolist() == pytest.approx([1 / 2])


def test_ties_count_by_their_expectation():
    found = identification(np.zeros((1, 5)), np.array(["b"]), CLASSES)
    assert found.iloc[0].tolist() == pytest.approx([0.5, 3 / 5])


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    influence, classes, asked = rng.normal(size=(6, 90)), rng.integers(0, 3, 90), np.array([0, 1, 2, 0, 1, 2])
    found = identification(influence, asked, classes)
    for row, score, name in zip(found.itertuples(), influence, asked, strict=True):
        same = classes == name
        assert row.auc == pytest.approx(roc_auc_score(same, score))
        largest = np.argsort(-score)[: same.sum()]
        assert row.recall == pytest.approx(same[largest].mean())


@pytest.mark.parametrize(("name", "message"), [("c", "no sample"), ("a", "all samples")])
def test_refusals(name: str, message: str):
    with pytest.raises(ValueError, match=f"class '{name}' of a query is that of {message}"):
        identification(np.zeros((1, 2)), np.array([name], dtype=object), np.array(["a", "a"], dtype=object))
