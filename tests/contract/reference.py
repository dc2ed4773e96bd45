"""Estimators written from their equations: plain Python loops in float64, one function a name.

A name that undertow registers and this file lacks fails its contract: write the equation here first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Vector = Sequence[float]
Matrix = Sequence[Vector]
# Gradient of one sample in word embeddings: of each token its row, and how often it occurs.
Words = Mapping[int, tuple[Vector, int]]


@dataclass(frozen=True)
class Adam:
    """State of an optimiser: running means of gradients and of their squares after some steps."""

    first: Vector
    second: Vector
    step: int
    betas: tuple[float, float]
    epsilon: float


@dataclass(frozen=True)
class Given:
    """One module's gradients of queries and samples, as rows of numbers and, the same, as words."""

    queries: Matrix
    samples: Matrix
    query_words: Sequence[Words]
    sample_words: Sequence[Words]
    adam: Adam


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def pairs(one: Callable[[Vector, Vector], float], queries: Matrix, samples: Matrix) -> list[list[float]]:
    return [[one(v, g) for g in samples] for v in queries]


def tracin(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """<v, g>."""
    return pairs(dot, queries, samples)


def angle(v: Vector, g: Vector) -> float:
    """<v, g> / (|v| |g|); 0 where either is zero."""
    lengths = math.sqrt(dot(v, v)) * math.sqrt(dot(g, g))
    return dot(v, g) / lengths if lengths > 0 else 0.0


def cosine(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """The angle of two gradients."""
    return pairs(angle, queries, samples)


def covariance(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """mean over the parameters of (v - mean v) (g - mean g)."""

    def centred(v: Vector) -> Vector:
        mean = math.fsum(v) / len(v)
        return [x - mean for x in v]

    return pairs(lambda v, g: dot(centred(v), centred(g)) / len(v), queries, samples)


def self_influence(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """-|g|^2, whatever the query."""
    return pairs(lambda v, g: -dot(g, g), queries, samples)


def damping(samples: Matrix) -> float:
    """lambda = mean_i |g_i|^2 / (10 d)."""
    return math.fsum(dot(g, g) for g in samples) / len(samples) / (10 * len(samples[0]))


def datainf(queries: Matrix, samples: Matrix, first: float = 1.0) -> list[list[float]]:
    """(1/lambda) [<v,g> - (1/n) sum_i <v,g_i><g_i,g> / (lambda + |g_i|^2)].

    Where all samples are zero, lambda is, and so is every inner product: the influence is 0.
    """
    ridge = damping(samples)

    def one(v: Vector, g: Vector) -> float:
        if ridge == 0:
            return 0.0
        terms = [dot(v, other) * dot(other, g) / (ridge + dot(other, other)) for other in samples]
        return (first * dot(v, g) - math.fsum(terms) / len(samples)) / ridge

    return pairs(one, queries, samples)


def datainf0(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """DataInf with 1/n on its first term as well."""
    return datainf(queries, samples, first=1 / len(samples))


def hessian(samples: Matrix) -> list[list[float]]:
    """G^T G / n + lambda I, [d, d]."""
    ridge, n, d = damping(samples), len(samples), len(samples[0])
    return [[math.fsum(g[i] * g[j] for g in samples) / n + ridge * (i == j) for j in range(d)] for i in range(d)]


def solved(matrix: Matrix, right: Vector) -> list[float]:
    """x with matrix x = right, by elimination with the largest pivot."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    d = len(rows)
    for i in range(d):
        best = max(range(i, d), key=lambda r: abs(rows[r][i]))
        rows[i], rows[best] = rows[best], rows[i]
        for r in range(i + 1, d):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    x = [0.0] * d
    for i in reversed(range(d)):
        x[i] = (rows[i][d] - math.fsum(rows[i][j] * x[j] for j in range(i + 1, d))) / rows[i][i]
    return x


def exact(queries: Matrix, samples: Matrix) -> list[list[float]]:
    """v^T (G^T G / n + lambda I)^-1 g; 0 where all samples are zero."""
    if damping(samples) == 0:
        return pairs(lambda v, g: 0.0, queries, samples)
    matrix = hessian(samples)
    return tracin([solved(matrix, v) for v in queries], samples)


def lissa(queries: Matrix, samples: Matrix, iterations: int = 10) -> list[list[float]]:
    """<r, g> / s after r <- v + r - H r / s from r = v; s = mean_i |g_i|^2 + lambda."""
    ridge = damping(samples)
    if ridge == 0:
        return pairs(lambda v, g: 0.0, queries, samples)
    matrix = hessian(samples)
    scale = math.fsum(dot(g, g) for g in samples) / len(samples) + ridge
    found = []
    for v in queries:
        r = list(v)
        for _ in range(iterations):
            r = [a + b - dot(row, r) / scale for a, b, row in zip(v, r, matrix, strict=True)]
        found.append([dot(r, g) / scale for g in samples])
    return found


def adam_step(g: Vector, adam: Adam) -> list[float]:
    """What Adam would subtract for the gradient g in its next step, over the learning rate."""
    (b1, b2), t = adam.betas, adam.step + 1
    step = []
    for x, m, u in zip(g, adam.first, adam.second, strict=True):
        mean = (b1 * m + (1 - b1) * x) / (1 - b1**t)
        square = (b2 * u + (1 - b2) * x * x) / (1 - b2**t)
        step.append(mean / (math.sqrt(square) + adam.epsilon))
    return step


def less(queries: Matrix, samples: Matrix, adam: Adam) -> list[list[float]]:
    """The angle between v and Adam's next step on g alone."""
    return cosine(queries, [adam_step(g, adam) for g in samples])


def over_words(words: Words, others: Words) -> float:
    """Sum over the shared tokens of the inner product of their rows."""
    return math.fsum(dot(words[token][0], others[token][0]) for token in words if token in others)


def largest(words: Words, k: int) -> Words:
    """The k tokens of largest norm per occurrence; of equal ones, the smaller token first."""
    order = sorted(words, key=lambda token: (-math.sqrt(dot(*[words[token][0]] * 2)) / words[token][1], token))
    return {token: words[token] for token in order[:k]}


def tracin_we(queries: Sequence[Words], samples: Sequence[Words]) -> list[list[float]]:
    """Sum over the tokens of both of <v_w, g_w>."""
    return [[over_words(v, g) for g in samples] for v in queries]


def tracin_we_k(queries: Sequence[Words], samples: Sequence[Words], k: int = 10) -> list[list[float]]:
    """Over the tokens that are among the k largest of each side."""
    return [[over_words(largest(v, k), largest(g, k)) for g in samples] for v in queries]


def tracin_we_k_pair(queries: Sequence[Words], samples: Sequence[Words], k: int = 10) -> list[list[float]]:
    """Over the tokens that are, on each side, among the k largest of those the pair shares."""

    def one(v: Words, g: Words) -> float:
        mine, theirs = ({t: side[t] for t in side if t in v and t in g} for side in (v, g))
        return over_words(largest(mine, k), largest(theirs, k))

    return [[one(v, g) for g in samples] for v in queries]


ESTIMATORS: dict[str, Callable[[Given], list[list[float]]]] = {
    "tracin": lambda x: tracin(x.queries, x.samples),
    "cosine": lambda x: cosine(x.queries, x.samples),
    "datainf": lambda x: datainf(x.queries, x.samples),
    "datainf0": lambda x: datainf0(x.queries, x.samples),
    "covariance": lambda x: covariance(x.queries, x.samples),
    "self-influence": lambda x: self_influence(x.queries, x.samples),
    "exact": lambda x: exact(x.queries, x.samples),
    "lissa": lambda x: lissa(x.queries, x.samples),
    "tracin-we": lambda x: tracin_we(x.query_words, x.sample_words),
    "tracin-we-k": lambda x: tracin_we_k(x.query_words, x.sample_words),
    "tracin-we-k-pair": lambda x: tracin_we_k_pair(x.query_words, x.sample_words),
    "less": lambda x: less(x.queries, x.samples, x.adam),
}
