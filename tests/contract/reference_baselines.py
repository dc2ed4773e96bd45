"""Baselines written from their definitions: plain Python loops in float64, one function a name.

Each takes the evidence and returns one harm a sample. A name that undertow registers and this file lacks
fails its contract: write the definition here first.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedKFold

from undertow.baselines.confident import _digest
from undertow.baselines.evidence import Evidence

Vector = Sequence[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Vector, b: Vector) -> float:
    """0 where either is zero."""
    lengths = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / lengths if lengths > 0 else 0.0


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def loss(evidence: Evidence) -> list[float]:
    return evidence.loss.tolist()


def margin(evidence: Evidence) -> list[float]:
    """Highest other probability minus that of the given label."""
    harms = []
    for row, label in zip(evidence.probabilities.tolist(), evidence.labels.tolist(), strict=True):
        harms.append(max(p for c, p in enumerate(row) if c != label) - row[label])
    return harms


def entropy(evidence: Evidence) -> list[float]:
    """- sum p ln p."""
    return [-math.fsum(p * math.log(p) for p in row if p > 0) for row in evidence.probabilities.tolist()]


def aum(evidence: Evidence) -> list[float]:
    return [-mean(column) for column in evidence.margins.T.tolist()]


def forgetting(evidence: Evidence) -> list[float]:
    """Times the sample was right and then wrong; one that was never right counts as many as there are epochs."""
    harms = []
    for column in evidence.margins.T.tolist():
        right = [m > 0 for m in column]
        events = sum(1 for before, now in pairwise(right) if before and not now)
        harms.append(float(events if any(right) else len(column)))
    return harms


def knn(evidence: Evidence, k: int = 10) -> list[float]:
    """Share of differing labels among the k most similar others; those tied for the last places share them.

    Equal shares are told apart by the share weighted with (1 + cosine) / 2, which adds a millionth.
    """
    states, labels = evidence.states.tolist(), evidence.labels.tolist()
    harms = []
    for i, state in enumerate(states):
        # Rounded, so that values equal but for the last digits tie.
        others = [(round(cosine(state, other), 8), labels[j] != labels[i]) for j, other in enumerate(states) if j != i]
        places = min(k, len(others))
        weights = []
        for similarity, _ in others:
            closer = sum(1 for s, _ in others if s > similarity)
            tied = sum(1 for s, _ in others if s == similarity)
            weights.append(min(max((places - closer) / tied, 0.0), 1.0))
        share = math.fsum(w for w, (_, differs) in zip(weights, others, strict=True) if differs) / places
        near = [w * (1 + s) / 2 for w, (s, _) in zip(weights, others, strict=True)]
        weighted = share
        if math.fsum(near) > 0:
            weighted = math.fsum(w for w, (_, differs) in zip(near, others, strict=True) if differs) / math.fsum(near)
        harms.append((share + 1e-6 * weighted) / (1 + 1e-6))
    return harms


def repsim(evidence: Evidence) -> list[float]:
    """Mean cosine to queries of other classes minus mean cosine to queries of the given label."""
    queries = list(zip(evidence.query_states.tolist(), evidence.query_labels.tolist(), strict=True))
    harms = []
    for state, label in zip(evidence.states.tolist(), evidence.labels.tolist(), strict=True):
        other = mean([cosine(state, query) for query, c in queries if c != label])
        own = mean([cosine(state, query) for query, c in queries if c == label])
        harms.append(other - own)
    return harms


def repsim_plain(evidence: Evidence) -> list[float]:
    queries = evidence.query_states.tolist()
    return [-mean([cosine(state, query) for query in queries]) for state in evidence.states.tolist()]


def outlier(evidence: Evidence, nu: float = 0.5) -> list[float]:
    """- sum_i a_i k(v_i, g) + rho over the queries v_i of the sample's label.

    a minimises a K a / 2 with 0 <= a_i <= 1 and sum a_i = nu m: the dual of the one-class SVM.
    """
    harms = []
    for gradient, label in zip(evidence.gradients, evidence.labels.tolist(), strict=True):
        fitted_on = evidence.query_gradients[evidence.query_labels == label]
        entries = fitted_on.ravel().tolist()
        variance = mean([(e - mean(entries)) ** 2 for e in entries])
        gamma = 1 / (fitted_on.shape[1] * variance) if variance > 0 else 1.0

        def kernel(a: np.ndarray, b: np.ndarray, gamma: float = gamma) -> float:
            return math.exp(-gamma * float(((a - b) ** 2).sum()))

        matrix = np.array([[kernel(a, b) for b in fitted_on] for a in fitted_on])
        alpha, rho = one_class_dual(matrix, nu)
        harms.append(rho - math.fsum(a * kernel(v, gradient) for a, v in zip(alpha, fitted_on, strict=True)))
    return harms


def one_class_dual(matrix: np.ndarray, nu: float) -> tuple[list[float], float]:
    """The solution and the offset rho, which is (K a)_i of those strictly inside the bounds."""
    m = len(matrix)
    found = minimize(
        lambda a: 0.5 * a @ matrix @ a,
        np.full(m, nu),
        jac=lambda a: matrix @ a,
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda a: a.sum() - nu * m, "jac": lambda a: np.ones(m)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success, found.message
    values = matrix @ found.x
    inside = (found.x > 1e-5) & (found.x < 1 - 1e-5)
    if inside.any():
        return found.x.tolist(), mean(values[inside].tolist())
    # All at their bounds: rho lies between those that are out and those that are in.
    above = values[found.x <= 1e-5]
    below = values[found.x >= 1 - 1e-5]
    return found.x.tolist(), float((above.min() + below.max()) / 2)


def confident_learning(evidence: Evidence) -> list[float]:
    """- (p_y - max other p + 1) / 2, p from a ridge-penalised softmax regression on the other four of five folds."""
    states, labels = evidence.states.astype(np.float64), evidence.labels
    classes = sorted(set(labels.tolist()))
    targets = np.array([classes.index(label) for label in labels.tolist()])
    # The one thing taken over: which sample is in which fold.
    keys = [_digest(row + 0.0, target) for row, target in zip(states, targets.tolist(), strict=True)]
    direction = np.random.default_rng(evidence.seed).normal(size=states.shape[1]).tolist()
    along = [dot(row, direction) for row in states.tolist()]
    order = sorted(range(len(keys)), key=lambda i: (along[i], keys[i]))
    folds = StratifiedKFold(5, shuffle=True, random_state=evidence.seed)
    probabilities = np.zeros((len(states), len(classes)))
    for fit, held_out in folds.split(order, targets[order]):
        inside, outside = [order[p] for p in fit], [order[p] for p in held_out]
        center, scale = states[inside].mean(0), states[inside].std(0)
        scale[scale == 0] = 1
        model = softmax_regression((states[inside] - center) / scale, targets[inside], len(classes))
        probabilities[outside] = model((states[outside] - center) / scale)
    same = Counter(keys)
    harms = []
    for key, target in zip(keys, targets.tolist(), strict=True):
        row = probabilities[[other == key for other in keys]].sum(0) / same[key]
        harms.append(-(row[target] - max(p for c, p in enumerate(row) if c != target) + 1) / 2)
    return harms


def softmax_regression(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Sum of log losses plus |w|^2 / 2 at its minimum; two classes have one weight vector, as is usual."""
    n, h = x.shape
    free = 1 if classes == 2 else classes

    def probabilities(theta: np.ndarray, of: np.ndarray) -> np.ndarray:
        w, b = theta[: free * h].reshape(free, h), theta[free * h :]
        logits = of @ w.T + b
        if free == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def objective(theta: np.ndarray) -> float:
        losses = -np.log(probabilities(theta, x)[np.arange(n), y])
        return float(losses.sum() + 0.5 * (theta[: free * h] ** 2).sum())

    found = minimize(objective, np.zeros(free * (h + 1)), method="BFGS", options={"gtol": 1e-4})
    return lambda of: probabilities(found.x, of)


def dawid_skene(evidence: Evidence) -> list[float]:
    """Expectation maximisation from the majority vote, a text and an annotator at a time.

    It stops as crowd-kit does: by the gain of the evidence bound a label, with the prior counted for every label.
    """
    assert evidence.texts is not None
    assert evidence.annotators is not None
    rows = list(zip(evidence.texts.tolist(), evidence.annotators.tolist(), evidence.labels.tolist(), strict=True))
    classes, texts, least = sorted({y for _, _, y in rows}), sorted({t for t, _, _ in rows}), 1e-10
    belief = {t: {c: mean([float(y == c) for s, _, y in rows if s == t]) for c in classes} for t in texts}
    before = -math.inf
    prior, errors = _maximised(rows, belief, classes, least)
    for _ in range(100):
        for t in texts:
            own = [(a, y) for s, a, y in rows if s == t]
            logs = {c: math.log(max(prior[c], least)) + sum(math.log(errors[a, y, c]) for a, y in own) for c in classes}
            weights = {c: math.exp(v - max(logs.values())) for c, v in logs.items()}
            belief[t] = {c: w / sum(weights.values()) for c, w in weights.items()}
        prior, errors = _maximised(rows, belief, classes, least)
        bound = sum(
            belief[t][c] * (math.log(errors[a, y, c]) + math.log(max(prior[c], least)))
            for t, a, y in rows
            for c in classes
        ) - sum(max(q, least) * math.log(max(q, least)) for b in belief.values() for q in b.values())
        if bound / len(rows) - before < 1e-5:
            break
        before = bound / len(rows)
    return [-math.log(max(belief[t][y], 1e-10)) for t, _, y in rows]


def _maximised(
    rows: list[tuple[int, int, int]], belief: dict[int, dict[int, float]], classes: list[int], least: float
) -> tuple[dict[int, float], dict[tuple[int, int, int], float]]:
    """Class priors, and how often each annotator gives each label to each true class."""
    prior = {c: mean([b[c] for b in belief.values()]) for c in classes}
    counts = {
        (a, y, c): max(sum(belief[t][c] for t, b, z in rows if (b, z) == (a, y)), least)
        for a, y in {(a, y) for _, a, y in rows}
        for c in classes
    }
    totals: Counter[tuple[int, int]] = Counter()
    for (a, _, c), value in counts.items():
        totals[a, c] += value
    return prior, {(a, y, c): value / totals[a, c] for (a, y, c), value in counts.items()}


def random(evidence: Evidence) -> list[float]:
    """Whatever numpy draws for this seed."""
    generator = np.random.default_rng(evidence.seed)
    return [float(generator.random()) for _ in evidence.labels]


BASELINES: dict[str, Callable[[Evidence], list[float]]] = {
    "loss": loss,
    "margin": margin,
    "entropy": entropy,
    "aum": aum,
    "forgetting": forgetting,
    "knn": knn,
    "repsim": repsim,
    "repsim-plain": repsim_plain,
    "outlier": outlier,
    "confident-learning": confident_learning,
    "dawid-skene": dawid_skene,
    "random": random,
}
