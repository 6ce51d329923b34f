"""The command line."""

from __future__ import annotations

__all__ = ["run"]


def run() -> None:
    """The ``steelyard`` program; Ctrl-C ends it with 130, also while it is still being loaded."""
    import sys

    try:
        from steelyard.cli import main

        main.run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        sys.exit(130)
