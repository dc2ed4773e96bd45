"""``python -m undertow`` is the command ``undertow``, as launchers of several processes take it."""

import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from undertow.cli.main import INTERRUPTED, run
from undertow.pipeline.ranks import current_ranks

# Seconds within which a launcher ends all processes when one has failed.
PATIENCE = 10.0


def main() -> None:
    """Run the command; of several processes, the first one speaks.

    What another one has to say of a failure comes late: where the first failed likewise and said so, the launcher has
    ended the others by then.
    """
    if current_ranks().first:
        run()
        return
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            run()
    except SystemExit as end:
        if end.code not in (None, 0, INTERRUPTED):
            time.sleep(PATIENCE)
            sys.stderr.write(said.getvalue())
        raise


if __name__ == "__main__":
    main()
