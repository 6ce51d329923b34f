"""The door for what is written: files that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.errors import InputError, SteelyardError, show

__all__ = ["WriteError", "check_target", "may_not_write", "not_written", "whole_file", "write_text"]

#: How long a named pipe may be without a reader, s.
WAIT_S = 5.0
#: Failures of the place, not of the answer: no room, a disk that fails or is mounted to be read, a limit on files.
_OF_THE_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS))


class WriteError(SteelyardError):
    """The disk is full, failed, or takes no files: nothing is wrong with the question. Exit code 1."""


def not_written(path: str | Path, error: OSError, field: str, *, how: str = "write") -> SteelyardError:
    """The error of what could not be written.

    Args:
        path: the file or folder.
        error: what the system said.
        field: the option that named it.
        how: what was tried: ``write``, ``write beside``.

    Returns:
        a :class:`WriteError` where the disk failed, an :class:`InputError` where another path would do.
    """
    words = f"cannot {how} {show(str(path))}: {error.strerror or error}"
    return WriteError(words) if error.errno in _OF_THE_DISK else InputError(words, field=field)


def may_not_write(path: Path) -> OSError:
    """Why something that is there cannot be written to: its disk is read-only, or it is another user's."""
    try:
        locked = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except (AttributeError, OSError):
        locked = False
    code = errno.EROFS if locked else errno.EACCES
    return OSError(code, os.strerror(code))


def check_target(path: str | Path, field: str, *, folder: bool = False) -> None:
    """Refuse a file (or a folder) that cannot be made, before any work is done.

    Raises:
        InputError: the other of the two is there, it has no folder to be in, or a name that no file system accepts.
        WriteError: the disk fails.
    """
    wanted, other = ("folder", "file") if folder else ("file", "folder")
    try:
        target = Path(path)
        if (target.exists() and not target.is_dir()) if folder else target.is_dir():
            raise InputError(f"expected a {wanted}, got the {other} {show(str(path))}", field=field)
        if not target.resolve().parent.is_dir():
            raise InputError(f"no folder {show(str(target.resolve().parent))}", field=field)
    except OSError as error:
        raise not_written(path, error, field) from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{show(str(path))} is not the path of a {wanted}", field=field) from None


@contextmanager
def whole_file(path: str | Path, field: str) -> Iterator[Path]:
    """Where to write a file that takes its place when all of it is written; on any failure the old file stays.

    Pipes and devices are written to directly, a named pipe once somebody reads it. What a link leads to is replaced, as
    by ``>`` of a shell.

    Args:
        path: the file.
        field: the option that named it, for the error.

    Raises:
        InputError: it cannot be written there.
        WriteError: the disk is full or fails.
    """
    try:
        target = Path(path).resolve()
        device = any(Path(p).is_relative_to(root) for p in (path, target) for root in ("/dev", "/proc"))
        if device or (target.exists() and not target.is_file()):
            with _read_by_somebody(target):
                yield Path(path)
            return
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        if mode is not None and not os.access(target, os.W_OK):
            raise may_not_write(target)
        with tempfile.TemporaryDirectory(prefix=".steelyard.", dir=target.parent) as folder:
            made = Path(folder) / target.name
            yield made
            if mode is not None:
                made.chmod(mode)
            made.replace(target)
    except OSError as error:
        raise not_written(path, error, field) from error


@contextmanager
def _read_by_somebody(target: Path) -> Iterator[None]:
    """Hold a named pipe open, so that opening it does not wait for ever. Raises :class:`OSError` if nobody reads it."""
    if not target.is_fifo():
        yield
        return
    until = time.monotonic() + WAIT_S
    while True:
        try:
            held = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise OSError(errno.ENXIO, "nobody reads this pipe") from None
            time.sleep(0.05)
        else:
            break
    try:
        yield
    finally:
        os.close(held)


def write_text(path: str | Path, text: str, field: str) -> None:
    """Write a text file whole or not at all. Raises as :func:`whole_file`."""
    with whole_file(path, field) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
