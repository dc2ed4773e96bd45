"""What commands that look at a finished run share: options, how they are read, and how numbers are shown."""

import math
from typing import Annotated

import typer

from undertow.aggregation.names import WEIGH
from undertow.errors import ConfigError

Weigh = Annotated[str, typer.Option(help=f"What each query weighs: {', '.join(WEIGH)}.", metavar="HOW")]
Trim = Annotated[float, typer.Option(help="Share of the values that trimmed leaves out on each side.", metavar="SHARE")]
Memory = Annotated[
    float | None, typer.Option(help="GB to stay within; half of what is free unless given.", metavar="GB")
]


def names(told: str | None) -> tuple[str, ...]:
    """The names that an option joins by commas."""
    return tuple(part.strip() for part in (told or "").split(",") if part.strip())


def numbers(told: str) -> tuple[float, ...]:
    """Each k that --k joins by commas.

    Raises:
        ConfigError: when one is no number.
    """
    try:
        return tuple(float(part) for part in told.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--k {told} is not a number. It is a share of the samples, above 0 and at most 1, or a whole number of "
            "them above 1; several are joined by commas."
        ) from error


def fixed(value: float, digits: int = 3) -> str:
    """A measure in a table; a dash where there is none."""
    if math.isinf(value):
        return "∞"
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
