"""Names of the estimators, known without loading any of them."""

from collections.abc import Sequence

from undertow.errors import ConfigError

ESTIMATOR_NAMES = ("tracin", "cosine", "datainf")


def check_estimators(names: Sequence[str]) -> None:
    """Refuse unknown or repeated estimator names.

    Raises:
        ConfigError: lists the known names.
    """
    unknown = [n for n in names if n not in ESTIMATOR_NAMES]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"--estimator got {came}. Known estimators are: {', '.join(ESTIMATOR_NAMES)}.")
    if len(set(names)) != len(names):
        raise ConfigError(f"--estimator names one twice: {', '.join(names)}. Give each once.")
