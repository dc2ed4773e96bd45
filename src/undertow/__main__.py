"""``python -m undertow`` is the command ``undertow``."""

from undertow.cli.main import run

if __name__ == "__main__":
    run()
