"""Progress of long stages: a bar with the time left, or silence."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


@runtime_checkable
class Reporter(Protocol):
    """What a stage tells of its progress."""

    @contextmanager
    def track(self, name: str, total: int) -> Iterator[Advance]:
        """Open a bar of ``total`` units; the yielded function advances it."""
        ...

    def say(self, text: str) -> None:
        """Print one line that stays."""
        ...


class Stopwatch:
    """Seconds spent on each of several things, in the order in which they came first."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the time of the block to a thing."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Silent:
    """A reporter that shows nothing."""

    @contextmanager
    def track(self, name: str, total: int) -> Iterator[Advance]:
        """No bar."""
        yield lambda n: None

    def say(self, text: str) -> None:
        """Nothing."""


class Bars:
    """A reporter with one rich progress bar at a time."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def track(self, name: str, total: int) -> Iterator[Advance]:
        """A bar with counts, time spent and time left."""
        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=total)
            yield lambda n: bars.advance(task, n)

    def say(self, text: str) -> None:
        """Print a line; square brackets in it are text, not markup."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
