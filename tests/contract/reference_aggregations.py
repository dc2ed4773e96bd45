"""Aggregations written from their definitions: plain Python loops in float64, one function a name.

A name that undertow registers and this file lacks fails its contract: write its definition here first.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Vector = Sequence[float]
Matrix = Sequence[Vector]
Tensor = Sequence[Matrix]


@dataclass(frozen=True)
class Given:
    """An influence tensor [module][query][sample] and all that an aggregation may be told beside it."""

    influence: Tensor
    k: float = 0.3
    trim: float = 0.1
    only: tuple[str, ...] = ("all",)
    weigh: str = "equal"
    query_labels: Sequence[int] | None = None
    query_correct: Sequence[bool] | None = None
    query_confidence: Vector | None = None
    sample_labels: Sequence[int] | None = None
    queries: Sequence[bool] | None = None
    query_weights: Vector | None = None
    module_weights: Vector | None = None

    @property
    def samples(self) -> int:
        return len(self.influence[0][0])

    @property
    def counted(self) -> list[int]:
        """Queries that count for any sample at all."""
        return [
            x
            for x in range(len(self.influence[0]))
            if (self.queries is None or self.queries[x]) and ("correct" not in self.only or self.query_correct[x])
        ]

    def counts(self, query: int, sample: int) -> bool:
        """Whether a query that counts does so for this sample."""
        if "same-label" in self.only:
            return self.query_labels[query] == self.sample_labels[sample]
        if "other-label" in self.only:
            return self.query_labels[query] != self.sample_labels[sample]
        return True

    def weights(self, sample: int) -> dict[int, float]:
        """What each query weighs for a sample; they sum to the number of queries that count."""
        own = {x: 1.0 if self.query_weights is None else self.query_weights[x] for x in self.counted}
        if self.weigh == "confidence":
            own = {x: w * self.query_confidence[x] for x, w in own.items()}
        if self.weigh == "balanced":
            label = self.query_labels
            of_class = {c: math.fsum(w for x, w in own.items() if label[x] == c) for c in set(label)}
            own = {x: w / of_class[label[x]] if w else 0.0 for x, w in own.items()}
        mine = {x: w for x, w in own.items() if self.counts(x, sample)}
        total = math.fsum(mine.values())
        return {x: len(self.counted) * w / total for x, w in mine.items()}

    def of_modules(self) -> Vector:
        """What each module weighs; they sum to their number."""
        given = [1.0] * len(self.influence) if self.module_weights is None else self.module_weights
        return [len(given) * w / math.fsum(given) for w in given]


def ranks(row: Vector) -> list[int]:
    """How many samples of the row lie strictly below each."""
    return [sum(1 for other in row if other < value) for value in row]


def voters(k: float, samples: int) -> int:
    """k in whole samples: a share of them, at least one, or a number above 1."""
    return max(1, round(k * samples)) if k <= 1 else int(k)


def module_sums(given: Given, row_transform: Callable[[Vector], Vector]) -> list[list[float]]:
    """For each module and sample, the weighted sum over its queries of something computed within the row."""
    weights = [given.weights(i) for i in range(given.samples)]
    found = []
    for module in given.influence:
        rows = [row_transform(row) for row in module]
        found.append([math.fsum(w * rows[x][i] for x, w in weights[i].items()) for i in range(given.samples)])
    return found


def total(given: Given, row_transform: Callable[[Vector], Vector]) -> list[float]:
    """The weighted sum over modules and queries."""
    sums = module_sums(given, row_transform)
    return [
        math.fsum(v * module[i] for v, module in zip(given.of_modules(), sums, strict=True))
        for i in range(given.samples)
    ]


def average(given: Given, row_transform: Callable[[Vector], Vector]) -> list[float]:
    rows = len(given.influence) * len(given.counted)
    return [value / rows for value in total(given, row_transform)]


def mean(given: Given) -> list[float]:
    """Average over modules and queries."""
    return average(given, list)


def standardised(given: Given) -> list[float]:
    """Average of (I - mean) / standard deviation of the row; 0 in a row of equal values."""

    def scores(row: Vector) -> Vector:
        if min(row) == max(row):
            return [0.0] * len(row)
        centre = math.fsum(row) / len(row)
        spread = math.sqrt(math.fsum((v - centre) ** 2 for v in row) / len(row))
        return [(v - centre) / spread for v in row]

    return average(given, scores)


def rank(given: Given) -> list[float]:
    """Sum of the ranks."""
    return total(given, ranks)


def vote(given: Given) -> list[float]:
    """- sum of max(k - r, 0)."""
    count = voters(given.k, given.samples)
    return [-v for v in total(given, lambda row: [max(count - r, 0) for r in ranks(row)])]


def vote_all(given: Given) -> list[float]:
    """- sum of the integral of max(k - r, 0) over k from 0 to n, over that of rank 0.

    The integral is taken piece by piece: between whole numbers the votes are linear, so the trapezoid is exact.
    """
    n = given.samples

    def integral(r: int) -> float:
        return math.fsum((max(k - r, 0) + max(k + 1 - r, 0)) / 2 for k in range(n))

    return [-v for v in total(given, lambda row: [integral(r) / integral(0) for r in ranks(row)])]


def consensus(given: Given) -> list[float]:
    """Ranks, modules weighted by the leading eigenvector of the covariance of their scores off its diagonal."""
    sums = module_sums(given, ranks)
    weights = spectral_weights(sums)
    return [math.fsum(w * module[i] for w, module in zip(weights, sums, strict=True)) for i in range(given.samples)]


def spectral_weights(scores: Matrix) -> list[float]:
    """Non-negative, summing to their number; all 1 where no direction stands out."""
    count, n = len(scores), len(scores[0])
    centred = [[v - math.fsum(row) / n for v in row] for row in scores]
    covariance = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) / n for y in centred] for x in centred]
    tiny = 1e-9 * max(covariance[i][i] for i in range(count))
    off = [[0.0 if i == j else covariance[i][j] for j in range(count)] for i in range(count)]
    values, vectors = jacobi(off)
    order = sorted(range(count), key=lambda i: values[i])
    second = values[order[-2]] if count > 1 else 0.0
    leading = vectors[order[-1]]
    if values[order[-1]] - second <= tiny or abs(math.fsum(leading)) <= 1e-9:
        return [1.0] * count
    sign = math.copysign(1.0, math.fsum(leading))
    kept = [max(sign * v, 0.0) for v in leading]
    return [v * count / math.fsum(kept) for v in kept]


def jacobi(matrix: Matrix) -> tuple[list[float], list[list[float]]]:
    """Eigenvalues and eigenvectors of a symmetric matrix by rotations that clear one entry off the diagonal each."""
    a, n = [list(row) for row in matrix], len(matrix)
    vectors = [[float(i == j) for j in range(n)] for i in range(n)]
    for _ in range(60 * n * n):
        size, p, q = max(((abs(a[i][j]), i, j) for i in range(n) for j in range(i)), default=(0.0, 0, 0))
        if size == 0:
            break
        angle = math.atan2(2 * a[p][q], a[q][q] - a[p][p]) / 2
        c, s = math.cos(angle), math.sin(angle)
        for row in (*a, *vectors):
            row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
        a[p], a[q] = (
            [c * x - s * y for x, y in zip(a[p], a[q], strict=True)],
            [s * x + c * y for x, y in zip(a[p], a[q], strict=True)],
        )
        a[p][q] = a[q][p] = 0.0
    return [a[i][i] for i in range(n)], [[row[i] for row in vectors] for i in range(n)]


def values_of(given: Given, sample: int, row_transform: Callable[[Vector], Vector] = list) -> list[float]:
    """The values of a sample in every row that counts for it."""
    queries = [x for x in given.counted if given.counts(x, sample)]
    return [row_transform(module[x])[sample] for module in given.influence for x in queries]


def median(given: Given) -> list[float]:
    """Median over modules and queries."""
    return [statistics.median(values_of(given, i)) for i in range(given.samples)]


def trimmed(given: Given) -> list[float]:
    """Mean over modules and queries without floor(trim x values) on each side."""
    found = []
    for i in range(given.samples):
        values = sorted(values_of(given, i))
        out = int(given.trim * len(values))
        kept = values[out : len(values) - out]
        found.append(math.fsum(kept) / len(kept))
    return found


def minimum(given: Given) -> list[float]:
    """Lowest value over modules and queries."""
    return [min(values_of(given, i)) for i in range(given.samples)]


def rra(given: Given) -> list[float]:
    """ln(R rho), rho the least probability that at least k of R uniform numbers are as low as the k-th lowest rank."""
    n = given.samples

    def shares(row: Vector) -> Vector:
        return [sum(1 for other in row if other <= value) / n for value in row]

    found = []
    for i in range(n):
        u = sorted(values_of(given, i, shares))
        count = len(u)
        found.append(math.log(count) + min(math.log(at_least(k, count, u[k - 1])) for k in range(1, count + 1)))
    return found


def at_least(k: int, count: int, p: float) -> float:
    """P(X >= k) of a binomial distribution."""
    return math.fsum(math.comb(count, j) * p**j * (1 - p) ** (count - j) for j in range(k, count + 1))


AGGREGATIONS: dict[str, Callable[[Given], list[float]]] = {
    "mean": mean,
    "standardised": standardised,
    "rank": rank,
    "vote": vote,
    "vote-all": vote_all,
    "consensus": consensus,
    "median": median,
    "trimmed": trimmed,
    "minimum": minimum,
    "rra": rra,
}
