"""``python -m undertow`` is the command ``undertow``, as launchers of several processes take it."""

import os
from contextlib import redirect_stdout
from pathlib import Path

from undertow.cli.main import run
from undertow.pipeline.ranks import current_ranks


def main() -> None:
    """Run the command; of several processes, the first one prints what comes out."""
    if current_ranks().first:
        run()
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        run()


if __name__ == "__main__":
    main()
