"""The folder of --gradients, which outlives the run."""

from pathlib import Path

from undertow.errors import ConfigError

# What undertow puts there: one folder a side, and one a checkpoint while it is needed.
_OWN = ("queries", "samples")
_STEP = "step-"


def check_gradients_folder(folder: Path, run: Path) -> None:
    """Make sure that a folder can keep gradients, and make it.

    Raises:
        ConfigError: when it is a file, holds files of others, lies in the run folder, or cannot be written.
    """
    place, inside = folder.resolve(), run.resolve()
    if inside in (place, *place.parents):
        raise ConfigError(
            f"--gradients {folder} lies in the run folder {run}, which keeps no gradients when the run is over. Give a "
            "folder outside of it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(item.name for item in folder.iterdir())
    except OSError as error:
        raise ConfigError(
            f"--gradients {folder} cannot be used: {error.strerror or error}. Give a folder in a place that exists and "
            "that you may write to."
        ) from error
    foreign = [name for name in names if name not in _OWN and not name.startswith(_STEP)]
    if foreign:
        raise ConfigError(
            f"--gradients {folder} holds files that are not gradients ({', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}), and nothing in it is touched. Give a new or empty folder."
        )
