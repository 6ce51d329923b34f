"""What may come out of damaged data: an answer, or a clear error of ours; anything else is a failure."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import steelyard
from steelyard.errors import InputError, SteelyardError

__all__ = ["MAX_BYTES", "MAX_S", "Failure", "Wrong", "judged", "limited"]

#: Longest time of this process on a processor and most memory that one damaged input may take, s and bytes.
MAX_S, MAX_BYTES = 20.0, 2**30
#: Longest wall time, s: other work may share the processor.
MAX_WALL_S = 120.0
#: Longest line of a message.
MAX_LINE = 1600
_SOURCE = str(Path(steelyard.__file__).parent)
#: Characters that no message may hold, and words of Python that no user should read.
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_PYTHON = re.compile(
    r"'?(NoneType|int|float|str|list|dict|tuple|bool)'? object |unsupported operand|unexpected keyword argument|"
    r"missing \d+ required|object at 0x|Traceback|unhashable type|not subscriptable|has no attribute"
)


class Wrong(Exception):
    """An answer that cannot be right."""


class Hang(BaseException):
    """It took too long."""


@dataclass(frozen=True)
class Failure:
    """What should not have happened."""

    kind: str
    place: str
    words: str

    @property
    def key(self) -> str:
        """Equal for what is most likely the same fault."""
        return f"{self.kind} at {self.place}"


def judged(run: Any, content: bytes, folder: Path) -> Failure | None:
    """The failure of one content; None when it was answered or refused in good order."""
    _forget_peak()
    before, began = _peak(), time.monotonic()
    found: Failure | None
    try:
        with _alarm(MAX_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            run(content, folder)
        found = None
    except SteelyardError as error:
        found = _message(error)
    except Hang as error:
        found = Failure("hang", _place(error), f"more than {MAX_S:g} s of CPU, or {MAX_WALL_S:g} s")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        found = Failure(type(error).__name__, _place(error), str(error)[:300])
    grown = _peak() - before
    if found is None and grown > MAX_BYTES:
        found = Failure("memory", "", f"{grown / 2**20:.0f} MiB in {time.monotonic() - began:.1f} s")
    return found


def _message(error: SteelyardError) -> Failure | None:
    """What is wrong with a message."""
    lines = [str(p) for p in error.problems] if isinstance(error, InputError) else [str(error)]
    for line in lines:
        if not line.strip():
            return Failure("empty message", _place(error), repr(error))
        if len(line) > MAX_LINE:
            return Failure("long message", _place(error), f"{len(line)} characters: {line[:200]}")
        if _RAW.search(line):
            return Failure("control characters", _place(error), ascii(line)[:300])
        if _PYTHON.search(line):
            return Failure("words of Python", _place(error), line[:300])
    if error.exit_code not in (2, 3):
        return Failure(f"exit code {error.exit_code}", _place(error), lines[0][:300])
    return None


def _place(error: BaseException) -> str:
    """The innermost function of ours that it passed, and its line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(_SOURCE)]
    if not frames:
        frames = list(traceback.extract_tb(error.__traceback__))[-1:]
        return f"{Path(frames[0].filename).name}:{frames[0].lineno}" if frames else ""
    last = frames[-1]
    return f"{Path(last.filename).relative_to(_SOURCE)}:{last.lineno} {last.name}"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, MAX_WALL_S)}
    before = {number: signal.signal(number, ring) for number, _ in clocks.values()}
    for clock, (_, most) in clocks.items():
        signal.setitimer(clock, most)
    try:
        yield
    finally:
        for clock in clocks:
            signal.setitimer(clock, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _forget_peak() -> None:
    """Let the peak of the memory begin anew (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(re.search(r"VmHWM:\s*(\d+) kB", text)[1]) * 1024  # type: ignore[index]


def limited() -> None:
    """Keep this process from taking the whole computer: what asks for far too much fails instead."""
    if sys.platform.startswith("linux") and "STEELYARD_FUZZ_UNLIMITED" not in os.environ:
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
