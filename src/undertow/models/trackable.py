"""What can be tracked, known without loading any model."""

from collections.abc import Sequence

from undertow.errors import ConfigError

# What --track takes, besides auto.
TRACKABLE = ("lora", "head", "linear", "norm", "embedding")


def check_track(names: Sequence[str]) -> None:
    """Refuse unknown names of what to track.

    Raises:
        ConfigError: lists the known ones.
    """
    unknown = [n for n in names if n not in (*TRACKABLE, "auto")]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"--track got {came}. Known are: auto, {', '.join(TRACKABLE)}; several by commas.")
