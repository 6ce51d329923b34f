"""The command line."""

from __future__ import annotations

__all__ = ["run"]


def run() -> None:
    """The ``steelyard`` program; Ctrl-C ends it with 130, also while it is still being loaded."""
    import gc
    import sys

    gc.set_threshold(200_000, 10, 10)  # loading makes a hundred thousand objects that stay: not a cycle among them
    try:
        _end_at_once()
        from steelyard.cli import main

        main.run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        sys.exit(130)


def _end_at_once() -> None:
    """Let Ctrl-C end the process where it is: while modules are loaded there is nothing to put away.

    An exception would get lost where Python ignores them, as in the locks of modules.
    """
    import _signal  # type: ignore[import-not-found]  # what `signal` gives names to; already there
    import os

    def end(number: int, frame: object) -> None:
        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(130)

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not where it is ignored: in the background
        _signal.signal(_signal.SIGINT, end)
