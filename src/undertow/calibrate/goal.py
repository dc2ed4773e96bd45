"""What a cut is to serve."""

from dataclasses import dataclass

from undertow.errors import ConfigError


@dataclass(frozen=True)
class Goal:
    """What a cut is to serve: at most one of these; none for the best harmonic mean of precision and recall (F1).

    Attributes:
        precision: share of the flagged rows that is to be wrong.
        recall: share of the wrong labels that is to be flagged.
    """

    precision: float | None = None
    recall: float | None = None

    def check(self) -> None:
        """Refuse several goals, or one outside its range.

        Raises:
            ConfigError: says what is accepted.
        """
        if self.precision is not None and self.recall is not None:
            raise ConfigError("--target-precision and --target-recall contradict each other. Give one of them.")
        for name, value in (("precision", self.precision), ("recall", self.recall)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"--target-{name} {value:g} is outside its range. It lies between 0 and 1.")
