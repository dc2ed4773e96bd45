"""Runs the command line as a user would, inside this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from undertow.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Standard output without line breaks, as sentences wrap at the width of the terminal."""
        return " ".join(self.out.split())

    @property
    def complaint(self) -> str:
        """The one paragraph of an error; fails where there is anything else that looks like one."""
        lines = [line for line in self.err.splitlines() if line.startswith("undertow: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip("\n").endswith(lines[0]), self.err
        assert "Traceback" not in self.err
        return lines[0]


def undertow(*arguments: object) -> Outcome:
    """Run ``undertow`` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["undertow", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            run()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below a folder."""
    stats = {str(p.relative_to(folder)): p.stat() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}
