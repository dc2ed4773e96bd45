"""Anchors: trusted rows that are trained on like all others, so that their harm is that of known good rows."""

from undertow.errors import ConfigError

# Fewer anchors than these make no p-value that a cut can use. Halved, cuts of 60 trusted rows scatter by 0.2.
FEWEST = 30
# Part of the trusted rows that become anchors; the others choose the checkpoint and serve as queries.
PART = 1 / 3


def anchor_count(trusted: int, asked: int | float | None = None) -> int:
    """How many of some trusted rows become anchors: a third of them unless asked for; 0 where they would be too few.

    Args:
        trusted: number of trusted rows that are not held out for measuring.
        asked: a share below 1 or a number; 0 for none.

    Raises:
        ConfigError: when fewer are asked for than serve, or more than leave rows for the other roles.

    Example:
        >>> anchor_count(300), anchor_count(60), anchor_count(300, 120)
        (100, 0, 120)
    """
    if asked == 0:
        return 0
    count = round(PART * trusted) if asked is None else round(asked * trusted if asked < 1 else asked)
    if asked is None:
        return count if count >= FEWEST else 0
    if not FEWEST <= count <= trusted - 2:
        raise ConfigError(
            f"--anchors {asked:g} makes {count} anchors of {trusted} trusted rows. At least {FEWEST} are needed, and "
            "2 or more rows have to be left to choose the checkpoint and to serve as queries. --anchors 0 does without."
        )
    return count
