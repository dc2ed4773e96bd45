"""Estimators and aggregations written from their equations: plain Python loops in float64, one function a name.

A name that undertow registers and this file lacks fails its contract: write the equation here first.
"""

import math
from collections.abc import Callable, Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def tracin(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """<v, g>."""
    return [[dot(v, g) for g in samples] for v in queries]


def cosine(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """<v, g> / (|v| |g|); 0 where either is zero."""

    def one(v: Vector, g: Vector) -> float:
        lengths = math.sqrt(dot(v, v)) * math.sqrt(dot(g, g))
        return dot(v, g) / lengths if lengths > 0 else 0.0

    return [[one(v, g) for g in samples] for v in queries]


def datainf(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """(1/lambda) [<v,g> - (1/n) sum_i <v,g_i><g_i,g> / (lambda + |g_i|^2)], lambda = mean_i |g_i|^2 / (10 d).

    Where all samples are zero, lambda is, and so is every inner product: the influence is 0.
    """
    n, d = len(samples), len(samples[0])
    damping = math.fsum(dot(g, g) for g in samples) / n / (10 * d)

    def one(v: Vector, g: Vector) -> float:
        if damping == 0:
            return 0.0
        terms = [dot(v, other) * dot(other, g) / (damping + dot(other, other)) for other in samples]
        return (dot(v, g) - math.fsum(terms) / n) / damping

    return [[one(v, g) for g in samples] for v in queries]


ESTIMATORS: dict[str, Callable[[Matrix, Matrix], list[list[float]]]] = {
    "tracin": tracin,
    "cosine": cosine,
    "datainf": datainf,
}


def ranks(row: Vector) -> list[int]:
    """How many samples of the row lie strictly below each."""
    return [sum(1 for other in row if other < value) for value in row]


def mean(rows: Matrix, k: float) -> list[float]:
    """Average over rows, a row being one module and one query."""
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def rank(rows: Matrix, k: float) -> list[float]:
    """Sum of the ranks over rows."""
    return [float(sum(column)) for column in zip(*(ranks(row) for row in rows), strict=True)]


def vote(rows: Matrix, k: float) -> list[float]:
    """- sum over rows of max(kn - r, 0); kn in whole samples, at least one."""
    voters = max(1, round(k * len(rows[0])))
    return [
        -float(sum(max(voters - r, 0) for r in column)) for column in zip(*(ranks(row) for row in rows), strict=True)
    ]


AGGREGATIONS: dict[str, Callable[[Matrix, float], list[float]]] = {"mean": mean, "rank": rank, "vote": vote}
