"""Shape and type checks are on for the whole package while tests run; torch computes on one thread."""

import os
import signal

# The models are tiny: a second thread would wait more than it computes. Set before torch is loaded, and for children.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

# Before anything imports undertow: modules loaded earlier would go unchecked.
install_import_hook("undertow", "beartype.beartype")


def pytest_configure() -> None:
    """A shell that runs the tests in the background has SIGINT ignored, here and in children; the tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
