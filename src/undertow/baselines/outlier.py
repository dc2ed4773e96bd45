"""Gradients that lie outside those of the queries of the same class."""

import numpy as np
from jaxtyping import Float, Int

from undertow.baselines.cosine import unit_rows
from undertow.errors import ConfigError, DataError

# Samples scored at a time: bounds the copies that the kernel makes of their gradients.
_ROWS = 256


def outlier_harm(
    gradients: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    query_gradients: Float[np.ndarray, "q d"],
    query_labels: Int[np.ndarray, " q"],
    *,
    nu: float = 0.5,
    directions: bool = False,
) -> Float[np.ndarray, " n"]:
    """Minus the decision function of a one-class SVM; above 0 it calls the sample an outlier.

    For each class, an SVM (Schölkopf et al. 2001) is fitted on the gradients of the queries of that class and
    scores the gradients of the samples *labelled* with it (Vitel & Chhabra, arXiv 2511.04715, "Outlier").
    Decided here: scikit-learn's defaults, that is the kernel exp(-γ |v - g|²) with γ = 1 / (d · variance of
    all entries of the class's query gradients), and ``nu`` = 0.5.

    The kernel vanishes for gradients far larger than those of the queries, whose harm then ties at its
    largest, ρ of the class. ``directions`` divides every gradient by its length first, which cannot happen
    to then, and leaves sizes out.

    Raises:
        ConfigError: ``nu`` is outside (0, 1).
        DataError: no query is of the class that some sample is labelled with.
    """
    if not 0 < nu < 1:
        raise ConfigError(f"nu is {nu:g}. It bounds the share of queries that are left outside: above 0, below 1.")
    check_queries(labels, query_labels)
    if directions:
        gradients, query_gradients = unit_rows(gradients), unit_rows(query_gradients)
    harm = np.empty(len(gradients))
    for label in np.unique(labels):
        fitted_on = query_gradients[query_labels == label].astype(np.float64)
        rows = np.flatnonzero(labels == label)
        harm[rows] = -_decisions(gradients, rows, fitted_on, nu)
    return harm


def check_queries(labels: Int[np.ndarray, " n"], query_labels: Int[np.ndarray, " q"]) -> None:
    """Refuse labels of samples that no query has.

    Raises:
        DataError: names the first such class.
    """
    for label in np.unique(labels):
        if label not in query_labels:
            raise DataError(
                f"No query is of class {label}, which samples are labelled with: there is nothing to compare "
                "their gradients with. Give at least one query of each class."
            )


def _decisions(gradients: np.ndarray, rows: np.ndarray, fitted_on: np.ndarray, nu: float) -> np.ndarray:
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.svm import OneClassSVM

    variance = fitted_on.var()
    gamma = 1 / (fitted_on.shape[1] * variance) if variance > 0 else 1.0
    # Kernels by matrix products: libsvm's own take many times longer on long gradients.
    svm = OneClassSVM(kernel="precomputed", nu=nu, tol=1e-6).fit(rbf_kernel(fitted_on, gamma=gamma))
    blocks = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    kernels = (rbf_kernel(gradients[block].astype(np.float64), fitted_on, gamma=gamma) for block in blocks)
    return np.concatenate([svm.decision_function(kernel) for kernel in kernels])
