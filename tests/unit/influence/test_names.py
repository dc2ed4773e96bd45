"""Names of the estimators and what each declares to need."""

import subprocess
import sys

import pytest

from undertow.errors import ConfigError
from undertow.influence.names import ESTIMATOR_NAMES, ESTIMATOR_NEEDS, check_estimators, needing


def test_every_estimator_says_what_it_needs():
    assert set(ESTIMATOR_NAMES) == set(ESTIMATOR_NEEDS)
    assert {n for needs in ESTIMATOR_NEEDS.values() for n in needs} == {
        "embedding",
        "optimiser",
        "checkpoints",
        "model",
    }
    plain = {"tracin", "cosine", "datainf", "datainf0", "covariance", "self-influence", "exact", "lissa"}
    assert {n for n, needs in ESTIMATOR_NEEDS.items() if not needs} == plain


def test_which_of_some_need_something():
    assert needing(ESTIMATOR_NAMES, "embedding") == ("tracin-we", "tracin-we-k", "tracin-we-k-pair")
    assert needing(["less", "tracin"], "optimiser") == ("less",)
    assert needing(["tracincp", "ekfac"], "checkpoints") == ("tracincp",)
    assert needing(["tracincp", "ekfac"], "model") == ("ekfac",)
    assert needing(["datainf"], "model") == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tracin", "tracing"], r"--estimator got 'tracing'\. Known estimators are: tracin, cosine, .*, ekfac\."),
        (["a", "cosine", "b"], r"--estimator got 'a', 'b'\. "),
        (["TracIn"], r"--estimator got 'TracIn'\. "),
        ([], r"--estimator got nothing\. Known estimators are: "),
        (["cosine", "cosine"], r"--estimator names one twice: cosine, cosine\. Give each once\."),
    ],
)
def test_names_that_are_not_accepted(names: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        check_estimators(names)


def test_names_that_are_accepted():
    check_estimators(["datainf", "tracin"])
    check_estimators(ESTIMATOR_NAMES)


def test_names_load_nothing_heavy():
    code = "import sys, undertow.influence.names; assert not {'torch', 'numpy', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
