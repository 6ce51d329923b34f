"""Machine code kept on the disk between runs: whatever is wrong with the disk, the run goes on. Imports numba.

A folder of what is kept holds a file of names and a file of code per function, each under the hash of its content: what
is damaged, cut short or of another version is compiled again. What is kept is Python's pickled form, which can run
code, so only folders that nobody else could have written to are read.
"""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import numba.core.caching

from steelyard.folders import cache_folder

_CACHING: Any = numba.core.caching

__all__ = ["KeptCode", "KeptFile", "Place", "place"]

#: Folders of earlier states of the code that are kept beside the present one.
KEPT = 12
#: Files whose functions and constants are part of the machine code, from this folder.
SOURCES = (
    "jit.py",
    "kept_code.py",
    "step_eval.py",
    "step_table.py",
    "../simulation/kernel/*.py",
    "../simulation/policies/*.py",
)
#: How long a process waits for another that keeps code, in s; then it does not wait any more.
PATIENCE_S = 10.0
#: Length of the hash before a file's content, in bytes.
DIGEST = 32


class Place:
    """Where code is kept. ``folder`` None: nowhere to read from; ``reason``: why nothing is written, empty: it is."""

    def __init__(self, folder: Path | None, reason: str) -> None:
        self.folder, self.reason = folder, reason
        self._said = False

    def not_kept(self, reason: str) -> None:
        """Say once that the next run will compile again."""
        if not self._said and sys.stderr is not None:
            self._said = True
            with suppress(OSError, ValueError):
                print(
                    f"compiled code is not kept, so the next run compiles it again ({reason[:200]}); "
                    "NUMBA_CACHE_DIR can name a folder for it",
                    file=sys.stderr,
                )


@cache
def place() -> Place:
    """The folder of this state of the code, the first that can be used.

    ``NUMBA_CACHE_DIR``, else the user's cache folder of the platform, else a folder of the user's own among the
    temporary ones. numba notices a change of the file of a compiled function, not of the constants and functions it
    takes from other files; a folder per state of all of them does. The newest few are kept.
    """
    state = sha256(numba.__version__.encode())
    sources = [path for pattern in SOURCES for path in sorted(Path(__file__).parent.glob(pattern))]
    try:
        for path in sources:
            state.update(path.read_bytes())
    except OSError as error:
        return Place(None, str(error))
    if not sources:
        return Place(None, "the package is not a folder")
    name = state.hexdigest()[:16]
    reason, readable = "there is no folder for it", None
    for root, given in _roots():
        folder = root / name
        try:
            _make(root, folder, given)
        except OSError as error:
            reason = f"{root}: {error.strerror or error}"
        if not _trusted(folder, given):
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return Place(folder, "")
        if readable is None and os.access(folder, os.R_OK | os.X_OK):
            readable = folder
    return Place(readable, reason)


def _roots() -> Iterator[tuple[Path, bool]]:
    """Folders in which there may be one per state of the code; whether the user has named it."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        yield Path(named).absolute() / "steelyard", True
        return
    own = cache_folder()
    if own is not None:
        yield own / "steelyard" / "numba", False
    with suppress(OSError):  # no temporary folder either
        temporary = Path(tempfile.gettempdir())
        if hasattr(os, "getuid") and temporary != Path.cwd():
            yield temporary / f"steelyard-{os.getuid()}", False


def _make(root: Path, folder: Path, given: bool) -> None:
    """Make the folder of this state, and remove those of all but the latest states."""
    if folder.is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if not _trusted(root, given):
        raise PermissionError(1, "it is not this user's own folder")
    folder.mkdir(mode=0o700, exist_ok=True)
    others = sorted((p for p in root.iterdir() if p != folder), key=lambda p: p.lstat().st_mtime, reverse=True)
    for old in others[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _trusted(folder: Path, given: bool) -> bool:
    """Whether a folder, and the one it is in, is this user's or the system's and nobody else can write to it."""
    try:
        if given or not hasattr(os, "getuid"):
            return folder.is_dir()
        for path in (folder.parent, folder) if folder.parent.name != "tmp" else (folder,):
            found = path.lstat()
            if not path.is_dir() or path.is_symlink() or found.st_uid not in (os.getuid(), 0):
                return False
            if found.st_mode & 0o002 and not found.st_mode & 0o1000:
                return False
    except OSError:
        return False
    return True


class _Locator:
    """Where numba keeps a function's code, as its own classes of this kind say it."""

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._folder = folder
        self._py_file = inspect.getfile(function)
        try:
            self._stamp = sha256(Path(self._py_file).read_bytes()).hexdigest()
        except OSError:
            self._stamp = ""

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._stamp

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class _Form(_CACHING.CompileResultCacheImpl):  # type: ignore[misc]
    """What is written of a compiled function; numba's, under a name that depends on the module, not on its folder."""

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(function, folder)
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._filename_base = f"{name}-{self._lineno}.py{sys.version_info[0]}{sys.version_info[1]}"


class KeptFile(_CACHING.IndexDataCacheFile):  # type: ignore[misc]
    """numba's two files of a function, with a hash before their content."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, names = self._read(self._index_path)
        except FileNotFoundError:
            return {}
        return names if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        content = Path(path).read_bytes()
        if sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            raise ValueError(f"{path} is damaged")
        return pickle.loads(content[DIGEST:])  # noqa: S301 - numba's own form, from a folder only this user writes to

    def _write(self, path: str, what: Any) -> None:
        content = self._dump(what)
        with self._open_for_write(path) as file:
            file.write(sha256(content).digest() + content)

    def forget(self) -> None:
        """Remove the names, so that all code of the function is written anew."""
        with suppress(OSError):
            Path(self._index_path).unlink(missing_ok=True)


class KeptCode(_CACHING.FunctionCache):  # type: ignore[misc]
    """The kept code of one function. Nothing that is wrong with it, or with the disk, ends a run."""

    def __init__(self, function: Callable[..., Any], where: Place) -> None:
        self._name, self._py_func, self._where = repr(function), function, where
        self._cache_path = str(where.folder or "")
        self._impl: Any = None
        self._cache_file: Any = None
        if where.folder is not None:
            self._impl = _Form(function, where.folder)
            stamp = self._impl.locator.get_source_stamp()
            self._cache_file = KeptFile(self._cache_path, self._impl.filename_base, stamp)
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for such arguments, None where there is none or it cannot be used."""
        if self._cache_file is None:
            return None
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # damaged in whatever way: it is compiled and kept again
            self._cache_file.forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code; where that cannot be done, say so."""
        if self._where.folder is None or self._where.reason:
            self._where.not_kept(self._where.reason)
            return
        try:
            with _alone(self._where.folder):
                super().save_overload(sig, data)
        except Exception as error:  # full, gone, or somebody else's by now
            self._where.not_kept(f"{self._where.folder}: {getattr(error, 'strerror', None) or error}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time keeps machine code.

    numba reads its index of a function, picks a free file name and writes both back: two processes that keep code for
    different arguments at once would pick the same name, and the index would say one and the file hold the other. Where
    files cannot be locked they are written without a lock.
    """
    try:
        import fcntl

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
    except (ImportError, OSError):
        yield
        return
    try:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        os.close(lock)
