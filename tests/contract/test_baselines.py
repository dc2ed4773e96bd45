"""What every baseline must do; a new one gets these tests by registering."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from undertow.baselines.evidence import Evidence
from undertow.baselines.names import BASELINE_NAMES, BASELINE_NEEDS, BASELINE_SUMMARIES, NEEDS, check_baselines
from undertow.baselines.registry import BASELINES, baseline_harm
from undertow.errors import ConfigError, DataError, UndertowError

from . import reference_baselines

each_baseline = pytest.mark.parametrize("name", sorted(BASELINES))
by_content = pytest.mark.parametrize("name", sorted(set(BASELINES) - {"random"}))  # random goes by position
label_aware = pytest.mark.parametrize("name", sorted(name for name, b in BASELINES.items() if b.label_aware))
quick = settings(max_examples=15, deadline=None)

# What has to be collected for each field; labels and the seed are always there.
COLLECTED = {
    "loss": "predictions",
    "probabilities": "predictions",
    "margins": "dynamics",
    "states": "hidden",
    "query_states": "hidden",
    "gradients": "gradients",
    "query_gradients": "gradients",
    "texts": "annotators",
    "annotators": "annotators",
}
# Solvers stop short of the minimum that the reference finds.
TOLERANCE = {"outlier": 1e-4, "confident-learning": 1e-3}


def random_evidence(n: int = 40, q: int = 16, classes: int = 3, seed: int = 0) -> Evidence:
    """Random evidence in which every class has samples and queries."""
    rng = np.random.default_rng(seed)
    labels, query_labels = rng.permutation(np.arange(n) % classes), rng.permutation(np.arange(q) % classes)
    probabilities = rng.dirichlet(np.ones(classes), n)
    centers = rng.normal(size=(classes, 4))
    return Evidence(
        labels=labels,
        loss=-np.log(probabilities[np.arange(n), labels]),
        probabilities=probabilities,
        margins=rng.normal(size=(5, n)),
        states=centers[labels] + rng.normal(size=(n, 4)),
        gradients=rng.normal(size=(n, 6)) * rng.uniform(0.2, 2, (n, 1)),
        texts=np.arange(n) // 3,
        annotators=(np.arange(n) + np.arange(n) // 3) % 4,
        query_labels=query_labels,
        query_states=centers[query_labels] + rng.normal(size=(q, 4)),
        query_gradients=rng.normal(size=(q, 6)),
        seed=seed,
    )


def chosen(evidence: Evidence, samples: np.ndarray) -> Evidence:
    """The evidence of these samples, in this order."""
    taken = {
        f: getattr(evidence, f)[samples]
        for f in ("labels", "loss", "probabilities", "states", "gradients", "texts", "annotators")
    }
    return replace(evidence, **taken, margins=evidence.margins[:, samples])


def shuffled_queries(evidence: Evidence, order: np.ndarray) -> Evidence:
    return replace(
        evidence, **{f: getattr(evidence, f)[order] for f in ("query_labels", "query_states", "query_gradients")}
    )


def expected_harm(name: str, evidence: Evidence) -> np.ndarray:
    assert name in reference_baselines.BASELINES, f"write the definition of {name} in {reference_baselines.__file__}"
    return np.array(reference_baselines.BASELINES[name](evidence))


@st.composite
def tied_evidence(draw: st.DrawFn) -> Evidence:
    """Evidence of few distinct values: duplicates, ties, zero vectors, certain predictions."""
    classes, seed = draw(st.integers(2, 3)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    n, q = draw(st.integers(5 * classes, 30)), draw(st.integers(2 * classes, 10))
    labels, query_labels = np.arange(n) % classes, np.arange(q) % classes
    probabilities = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.25, 0.75]])[rng.integers(0, 3, n)][:, :classes]
    probabilities += np.eye(classes)[labels] * (1 - probabilities.sum(1, keepdims=True))
    pool = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 1, 0], [-1, 0, 3], [2, 0, 0]])
    return Evidence(
        labels=labels,
        loss=rng.integers(0, 3, n).astype(np.float64),
        probabilities=probabilities,
        margins=rng.integers(-1, 2, (draw(st.integers(1, 4)), n)).astype(np.float64),
        states=pool[rng.integers(0, len(pool), n)],
        gradients=pool[rng.integers(0, len(pool), n)],
        texts=np.arange(n) // 2,
        annotators=np.arange(n) % 2 + 2 * rng.integers(0, 2, n),
        query_labels=query_labels,
        query_states=pool[rng.integers(0, len(pool), q)],
        query_gradients=pool[rng.integers(0, len(pool), q)] + 0.1 * rng.normal(size=(q, 3)),
        seed=seed,
    )


def test_names_are_the_registry():
    assert set(BASELINE_NAMES) == set(BASELINES) == set(BASELINE_SUMMARIES)
    assert all(name == baseline.name for name, baseline in BASELINES.items())
    assert "oracle" not in BASELINES


@each_baseline
def test_declares_what_it_needs(name: str):
    baseline = BASELINES[name]
    assert set(BASELINE_NEEDS[name]) == {COLLECTED[f] for f in baseline.reads if f in COLLECTED}
    assert set(baseline.needs) <= set(NEEDS)
    assert baseline.summary
    assert "\n" not in baseline.summary


@each_baseline
@pytest.mark.parametrize(("n", "classes"), [(15, 2), (40, 3)])
def test_equals_its_definition(name: str, n: int, classes: int):
    evidence = random_evidence(n, classes=classes, seed=n)
    atol = TOLERANCE.get(name, 1e-9)
    np.testing.assert_allclose(baseline_harm(name, evidence), expected_harm(name, evidence), rtol=0, atol=atol)


@each_baseline
@quick
@given(evidence=tied_evidence())
def test_equals_its_definition_with_ties(name: str, evidence: Evidence):
    found = baseline_harm(name, evidence)
    assert found.shape == (len(evidence.labels),)
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected_harm(name, evidence), rtol=0, atol=TOLERANCE.get(name, 1e-8))


@each_baseline
def test_same_seed_gives_the_same(name: str):
    evidence = random_evidence()
    found = baseline_harm(name, evidence)
    np.testing.assert_array_equal(found, baseline_harm(name, random_evidence()))
    other = baseline_harm(name, replace(evidence, seed=1))
    assert np.array_equal(found, other) == ("seed" not in BASELINES[name].reads)


@by_content
@quick
@given(evidence=tied_evidence(), data=st.data())
def test_order_of_samples_and_queries(name: str, evidence: Evidence, data: st.DataObject):
    samples = np.array(data.draw(st.permutations(range(len(evidence.labels)))))
    queries = np.array(data.draw(st.permutations(range(len(evidence.query_labels)))))
    before = baseline_harm(name, evidence)[samples]
    moved = baseline_harm(name, shuffled_queries(chosen(evidence, samples), queries))
    np.testing.assert_allclose(moved, before, rtol=0, atol=TOLERANCE.get(name, 1e-9))


@by_content
def test_equal_samples_get_equal_harm(name: str):
    evidence = random_evidence()
    twice = chosen(evidence, np.tile(np.arange(40), 2))
    found = baseline_harm(name, twice)
    np.testing.assert_allclose(found[:40], found[40:], rtol=0, atol=1e-12)
    assert len(np.unique(found.round(9))) > (2 if name in ("forgetting", "dawid-skene") else 10)


@each_baseline
def test_float32_is_close_to_float64(name: str):
    wide = random_evidence()
    arrays = {f.name: getattr(wide, f.name) for f in fields(wide) if f.name != "seed"}
    narrow = replace(wide, **{f: a.astype(np.float32) for f, a in arrays.items() if a.dtype == np.float64})
    found = baseline_harm(name, narrow)
    assert found.dtype == np.float64
    # Folds go by content, which rounding changes.
    atol = 0.5 if name == "confident-learning" else 1e-5
    np.testing.assert_allclose(found, baseline_harm(name, wide), rtol=0, atol=atol)


@each_baseline
def test_leaves_its_evidence_alone(name: str):
    evidence, untouched = random_evidence(), random_evidence()
    baseline_harm(name, evidence)
    for field in fields(evidence):
        np.testing.assert_array_equal(getattr(evidence, field.name), getattr(untouched, field.name))


@each_baseline
def test_missing_evidence_is_named(name: str):
    baseline, bare = BASELINES[name], Evidence(labels=np.arange(12) % 2)
    missing = [field for field in baseline.reads if field not in ("labels", "seed", "samples")]
    if not missing:
        assert baseline_harm(name, bare).shape == (12,)
        return
    with pytest.raises(ConfigError, match=f"The baseline {name} reads .*the evidence lacks {', '.join(missing)}"):
        baseline_harm(name, bare)


def test_unknown_and_repeated_names():
    check_baselines([])
    check_baselines(BASELINE_NAMES)
    with pytest.raises(ConfigError, match=r"'oracle', 'knnn'\. Known baselines are: loss, margin, .*random"):
        check_baselines(["loss", "oracle", "knnn"])
    with pytest.raises(ConfigError, match="names one twice: loss, knn, loss"):
        check_baselines(["loss", "knn", "loss"])
    with pytest.raises(ConfigError, match="Known baselines"):
        baseline_harm("los", random_evidence())


def test_evidence_of_different_lengths():
    with pytest.raises(UndertowError, match=r"different numbers of samples: labels has 3, margins has 4"):
        bare_evidence(labels=np.arange(3), margins=np.zeros((2, 4)))
    with pytest.raises(UndertowError, match=r"different numbers of queries: query_labels has 2, query_states has 3"):
        bare_evidence(labels=np.arange(3), query_labels=np.arange(2), query_states=np.zeros((3, 1)))


def bare_evidence(**arrays: np.ndarray) -> Evidence:
    """Evidence whose shapes are not checked by jaxtyping, as outside of tests."""
    evidence = object.__new__(Evidence)
    for field in fields(Evidence):
        object.__setattr__(evidence, field.name, arrays.get(field.name, None if field.name != "seed" else 0))
    evidence.__post_init__()
    return evidence


@pytest.mark.parametrize(("field", "where"), [("states", (7, 2)), ("margins", (1, 7)), ("loss", (7,))])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_evidence_that_is_not_finite(field: str, where: tuple[int, ...], value: float):
    values = getattr(random_evidence(), field)
    values[where] = value
    with pytest.raises(DataError, match=f"The {field} of 1 of 40 rows are not finite .first at position 7."):
        replace(random_evidence(), **{field: values})


def flipped_problem(n: int = 300, q: int = 90, classes: int = 3) -> tuple[Evidence, np.ndarray]:
    """Three far-off clusters with 15% of the labels flipped, learned by softmax regression; the queries are clean.

    Returns the evidence and which labels were flipped.
    """
    rng = np.random.default_rng(0)
    centers = 3 * np.eye(classes, 8)
    true, query_labels = rng.integers(0, classes, n), np.arange(q) % classes
    flipped = np.arange(n) < 0.15 * n
    labels = np.where(flipped, (true + rng.integers(1, classes, n)) % classes, true)
    states, query_states = (centers[y] + rng.normal(size=(len(y), 8)) for y in (true, query_labels))
    weights, margins = np.zeros((8, classes)), []
    for _ in range(12):
        margins.append(given_margin(states @ weights, labels))
        weights -= 0.5 * states.T @ (softmax(states @ weights) - np.eye(classes)[labels]) / n
    errors, query_errors = (
        softmax(x @ weights) - np.eye(classes)[y] for x, y in ((states, labels), (query_states, query_labels))
    )
    probabilities = softmax(states @ weights)
    # Texts of one true class with five labels each, by five annotators.
    place = np.empty(n, dtype=int)
    for c in range(classes):
        place[true == c] = np.random.default_rng(1).permutation(int((true == c).sum()))
    evidence = Evidence(
        labels=labels,
        loss=-np.log(probabilities[np.arange(n), labels]),
        probabilities=probabilities,
        margins=np.array(margins),
        states=states,
        gradients=np.einsum("nh,nc->nhc", states, errors).reshape(n, -1),
        query_labels=query_labels,
        query_states=query_states,
        query_gradients=np.einsum("nh,nc->nhc", query_states, query_errors).reshape(q, -1),
        texts=1000 * true + place // 5,
        annotators=place % 5,
    )
    return evidence, flipped


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def given_margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    others = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits)
    return logits[np.arange(len(labels)), labels] - others.max(1)


@label_aware
def test_flipped_labels_rank_above_clean_ones(name: str):
    evidence, flipped = flipped_problem()
    assert roc_auc_score(flipped, baseline_harm(name, evidence)) > 0.9


@pytest.mark.parametrize("name", sorted(name for name, b in BASELINES.items() if not b.label_aware))
def test_what_ignores_labels_gives_the_same_for_others(name: str):
    evidence = random_evidence()
    changed = replace(evidence, labels=(evidence.labels + 1) % 3)
    np.testing.assert_array_equal(baseline_harm(name, changed), baseline_harm(name, evidence))
