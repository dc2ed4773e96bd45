"""The one-class SVM on gradients."""

import numpy as np
import pytest
from sklearn.svm import OneClassSVM

from undertow.baselines.outlier import outlier_harm
from undertow.errors import ConfigError, DataError


def problem(n: int = 600, q: int = 40, d: int = 7, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    gradients, queries = (rng.normal(size=(m, d)).astype(np.float32) for m in (n, q))
    return gradients, rng.integers(0, 2, n), queries, np.arange(q) % 2


@pytest.mark.parametrize("nu", [0.1, 0.5, 0.9])
def test_is_what_scikit_learn_says_of_each_class(nu: float):
    gradients, labels, queries, query_labels = problem()
    found = outlier_harm(gradients, labels, queries, query_labels, nu=nu)
    for label in (0, 1):
        svm = OneClassSVM(kernel="rbf", gamma="scale", nu=nu, tol=1e-6).fit(queries[query_labels == label])
        expected = -svm.decision_function(gradients[labels == label])
        np.testing.assert_allclose(found[labels == label], expected, atol=1e-4)


def test_a_sample_is_judged_by_its_own_label():
    queries = np.array([[1.0, 0], [1.1, 0], [-1, 0], [-1.1, 0]])
    samples, labels = np.array([[1.0, 0], [1.0, 0]]), np.array([0, 1])
    harm = outlier_harm(samples, labels, queries, np.array([0, 0, 1, 1]))
    assert harm[0] < harm[1]


def test_a_single_or_equal_query_of_a_class():
    samples, labels = np.array([[1.0, 0], [5.0, 0]]), np.array([0, 0])
    for queries in (1, 3):
        harm = outlier_harm(samples, labels, np.ones((queries, 2)), np.zeros(queries, dtype=np.int64))
        assert np.isfinite(harm).all()
        assert harm[0] < harm[1]


def test_zero_gradients_are_finite():
    gradients, labels, queries, query_labels = problem(n=6)
    gradients[:2] = 0
    for directions in (False, True):
        assert np.isfinite(outlier_harm(gradients, labels, queries, query_labels, directions=directions)).all()


def test_directions_tell_large_gradients_apart():
    gradients, labels, queries, query_labels = problem(n=50)
    labels[:] = 0
    far = 1e3 * gradients
    assert len(np.unique(outlier_harm(far, labels, queries, query_labels))) == 1
    found = outlier_harm(far, labels, queries, query_labels, directions=True)
    assert len(np.unique(found)) == 50
    np.testing.assert_allclose(
        found, outlier_harm(gradients, labels, queries, query_labels, directions=True), atol=1e-5
    )


def test_bad_input():
    gradients, labels, queries, query_labels = problem(n=6)
    with pytest.raises(DataError, match="No query is of class 1"):
        outlier_harm(gradients, np.array([0, 1] * 3), queries, np.zeros_like(query_labels))
    for nu in (0.0, 1.0):
        with pytest.raises(ConfigError, match=f"nu is {nu:g}"):
            outlier_harm(gradients, labels, queries, query_labels, nu=nu)
