import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import beta

from undertow.controls.sources import informed_by_source, source_rates


def simulated(rates: dict[str, float], rows: int, seed: int = 0, sure: float = 2.0):
    """Rows of sources with these shares of wrong labels; probabilities that are right on the whole."""
    random = np.random.default_rng(seed)
    names = np.repeat(list(rates), rows)
    wrong = random.random(len(names)) < np.repeat(list(rates.values()), rows)
    seen = random.normal(size=len(names)) + sure * wrong
    odds = np.log(wrong.mean() / (1 - wrong.mean())) + sure * seen - sure**2 / 2
    return names.tolist(), wrong, 1 / (1 + np.exp(-odds))


RATES = {"a": 0.02, "b": 0.05, "c": 0.1, "d": 0.5}


def test_rates_are_found_worst_first_and_intervals_hold():
    names, wrong, p = simulated(RATES, 150)
    found = source_rates(p, names)
    assert found[0].name == "d"
    for source in found:
        true = wrong[np.array(names) == source.name].mean()
        assert source.rows == 150
        assert source.low - 0.03 <= true <= source.high + 0.03
        assert source.rate == pytest.approx(true, abs=0.08)


def test_the_posterior_is_that_of_the_definition():
    names, _, p = simulated({"a": 0.1, "b": 0.4}, 8)
    grid, overall = (np.arange(400) + 0.5) / 400, p.mean()
    rows = {name: [q for q, n in zip(p, names, strict=True) if n == name] for name in "ab"}

    def log_likelihood(name: str) -> np.ndarray:
        return np.array(
            [sum(np.log(r * q / overall + (1 - r) * (1 - q) / (1 - overall)) for q in rows[name]) for r in grid]
        )

    best, posterior = -np.inf, {}
    for weight in np.geomspace(2, 500, 12):
        prior = beta.logpdf(grid, weight * overall, weight * (1 - overall))
        prior -= logsumexp(prior)
        joint = {name: log_likelihood(name) + prior for name in "ab"}
        if (total := sum(logsumexp(j) for j in joint.values())) > best:
            best, posterior = total, {name: np.exp(j - logsumexp(j)) for name, j in joint.items()}
    for source in source_rates(p, names):
        assert source.rate == pytest.approx(float(posterior[source.name] @ grid), abs=1e-9)


def test_few_rows_are_drawn_towards_the_others():
    names, _, p = simulated({"a": 0.1, "b": 0.1, "c": 0.1}, 200)
    found = {s.name: s for s in source_rates(np.append(p, 0.9), [*names, "one row"])}
    assert found["one row"].rate < 0.35
    assert found["one row"].high - found["one row"].low > found["a"].high - found["a"].low


def test_rows_of_a_careless_source_become_likelier_wrong_in_the_same_order():
    names, wrong, p = simulated(RATES, 200, seed=1, sure=1.0)
    informed = informed_by_source(p, names)
    for name in RATES:
        mine = np.array(names) == name
        assert (np.argsort(informed[mine]) == np.argsort(p[mine])).all()
    worst = np.array(names) == "d"
    assert informed[worst].mean() > p[worst].mean()
    assert abs(informed[worst].mean() - wrong[worst].mean()) < abs(p[worst].mean() - wrong[worst].mean())
    order, before = (np.argsort(-q)[:150] for q in (informed, p))
    assert wrong[order].sum() > wrong[before].sum()


def test_certain_rows_stay_certain_and_one_source_changes_nothing():
    p = np.array([0.0, 0.2, 1.0, 0.4])
    informed = informed_by_source(p, ["a", "a", "b", "b"])
    assert (informed[0], informed[2]) == (0, 1)
    alone = informed_by_source(p, ["a"] * 4)
    assert np.argsort(alone).tolist() == np.argsort(p).tolist()
