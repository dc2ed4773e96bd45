"""Several processes on one run: who does what, and waiting for each other.

`torchrun` and `accelerate launch` start the processes and say to each which one it is. What they exchange goes
through the run folder; between the steps they only wait for each other, through the launcher's key-value store.
No collective operation is used, so it makes no difference whether gloo or NCCL is there.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from undertow.errors import UndertowError

T = TypeVar("T")

# What a launcher tells its processes; a training of the first process alone must not see it.
_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE")
# Seconds between two looks at whether all are here.
_LOOK = 0.05
_meetings = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many.

    Attributes:
        index: 0-based number of this process.
        count: number of processes.
        local: 0-based number on this machine: which of its GPUs is this process's.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that trains, writes and talks."""
        return self.index == 0

    def wait(self) -> None:
        """Go on when all processes are here, however long that takes; a launcher ends all when one fails."""
        if self.count == 1:
            return
        key = f"undertow/{next(_meetings)}"
        try:
            store = _store()
            _reach(store, f"{key}/here", self.count)
            # The first process may hold the store: it goes on when all others have seen that all are here.
            _reach(store, f"{key}/seen", self.count if self.first else 0)
        except RuntimeError as error:  # the root of what torch.distributed raises
            raise UndertowError(
                f"Process {self.index} of {self.count} waited for the others, and the process that holds their store "
                f"is gone ({str(error).splitlines()[0]}). Its own message says why; the same command goes on."
            ) from error

    def first_then(self, act: Callable[[], T]) -> T:
        """Do something on the first process, and then on the others."""
        if not self.first:
            self.wait()
            return act()
        result = act()
        self.wait()
        return result


def current_ranks() -> Ranks:
    """What the launcher said; one process where there is none."""
    told = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    return Ranks(*(int(os.environ.get(name, default)) for name, default in told))


@contextmanager
def alone() -> Iterator[None]:
    """Hide the other processes from libraries that would share a training with them."""
    told = {name: os.environ.pop(name) for name in _TOLD if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(told)


def _reach(store: Any, key: str, count: int) -> None:
    """Count this process, and wait until there are so many."""
    store.add(key, 1)
    while store.add(key, 0) < count:
        time.sleep(_LOOK)


@cache
def _store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    return store
