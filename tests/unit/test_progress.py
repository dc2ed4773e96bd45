"""Seconds by name."""

import time

import pytest

from undertow.progress import Stopwatch


def test_a_stopwatch_adds_up_in_the_order_of_what_came_first():
    watch = Stopwatch()
    for name, pause in (("b", 0.02), ("a", 0.0), ("b", 0.02)):
        with watch.on(name):
            time.sleep(pause)
    with pytest.raises(ValueError, match="stops"), watch.on("a"):
        raise ValueError("stops")
    assert list(watch.seconds) == ["b", "a"]
    assert watch.seconds["b"] >= 0.04 > watch.seconds["a"] > 0
