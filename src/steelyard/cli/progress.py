"""What ``simulate`` says on a terminal's stderr while it works: words, then a bar of requests completed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Status", "bar", "counted", "status"]

#: s between two looks at the counters.
EVERY_S = 0.1


class Status:
    """Call it to change the words; :meth:`watch` is for the simulator's argument of that name."""

    def __init__(self, progress: Progress | None, words: str) -> None:
        self._progress, self._total, self._over = progress, 0, threading.Event()
        self._task = progress.add_task(words, total=None) if progress else None

    def __call__(self, words: str, total: int = 0) -> None:
        """New words; with ``total`` the bar counts to it as soon as something is watched."""
        self._total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=words)

    def watch(self, counters: Any) -> None:
        """Read the live counters ``[pool, counter]`` of a run beside it, until it is over."""
        if self._progress is not None and self._total:
            threading.Thread(target=self._look, args=(counters,), daemon=True).start()

    def _look(self, counters: Any) -> None:
        from steelyard.simulation.kernel.state import TOTALS

        column, progress, task = TOTALS.index("completed"), self._progress, self._task
        if progress is None or task is None:
            return
        while not self._over.wait(EVERY_S):
            progress.update(task, total=self._total, completed=int(counters[:, column].sum()))

    def over(self) -> None:
        """Stop looking."""
        self._over.set()


@contextmanager
def status(quiet: bool, words: str) -> Iterator[Status]:
    """A :class:`Status` that shows on a terminal and is silent elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield Status(None, words)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        found = Status(progress, words)
        try:
            yield found
        finally:
            found.over()


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback ``(what, done, total)`` that draws a bar on a terminal and does nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=max(total, 1))


@contextmanager
def counted(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback ``(done, total)`` that draws a bar of one thing."""
    with bar(quiet) as draw:
        yield lambda done, total: draw(what, done, total)
