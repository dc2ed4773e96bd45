"""Files of which a reader never sees half."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a place beside ``path`` to write to, which takes the place of ``path`` when the block ends well."""
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    temporary.replace(path)
