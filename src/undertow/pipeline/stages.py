"""What a stage costs: seconds and peak memory."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Cost:
    """Cost of one stage; filled when the stage ends."""

    seconds: float = 0.0
    peak_memory_mb: float = 0.0


@contextmanager
def measured(interval: float = 0.05) -> Iterator[Cost]:
    """Measure wall-clock seconds and the highest resident memory (MB) of this process inside the block."""
    cost, process, stop = Cost(), psutil.Process(os.getpid()), threading.Event()

    def sample() -> None:
        while True:
            cost.peak_memory_mb = max(cost.peak_memory_mb, process.memory_info().rss / 1e6)
            if stop.wait(interval):
                return

    watcher = threading.Thread(target=sample, daemon=True)
    start = time.perf_counter()
    watcher.start()
    try:
        yield cost
    finally:
        stop.set()
        watcher.join()
        cost.seconds = time.perf_counter() - start
