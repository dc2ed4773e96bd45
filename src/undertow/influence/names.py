"""Names of the estimators and what each needs, known without loading any of them."""

from collections.abc import Sequence

from undertow.errors import ConfigError

# What an estimator needs beside the gradients of the final model:
#   embedding    word embeddings among the tracked modules; it covers them and nothing else
#   optimiser    state of the Adam optimiser at the end of fine-tuning
#   checkpoints  several checkpoints with their learning rates
#   model        the model itself: the estimator takes gradients of its own, through a library
ESTIMATOR_NEEDS: dict[str, frozenset[str]] = {
    "tracin": frozenset(),
    "cosine": frozenset(),
    "datainf": frozenset(),
    "datainf0": frozenset(),
    "covariance": frozenset(),
    "self-influence": frozenset(),
    "exact": frozenset(),
    "lissa": frozenset(),
    "tracin-we": frozenset({"embedding"}),
    "tracin-we-k": frozenset({"embedding"}),
    "tracin-we-k-pair": frozenset({"embedding"}),
    "less": frozenset({"optimiser"}),
    "tracincp": frozenset({"checkpoints"}),
    "ekfac": frozenset({"model"}),
}

ESTIMATOR_NAMES = tuple(ESTIMATOR_NEEDS)


def check_estimators(names: Sequence[str]) -> None:
    """Refuse unknown or repeated estimator names.

    Raises:
        ConfigError: lists the known names.
    """
    unknown = [n for n in names if n not in ESTIMATOR_NEEDS]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"--estimator got {came}. Known estimators are: {', '.join(ESTIMATOR_NAMES)}.")
    if len(set(names)) != len(names):
        raise ConfigError(f"--estimator names one twice: {', '.join(names)}. Give each once.")


def needing(names: Sequence[str], need: str) -> tuple[str, ...]:
    """Those of some estimators that declare a need."""
    return tuple(n for n in names if need in ESTIMATOR_NEEDS[n])
