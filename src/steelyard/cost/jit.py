"""The door to numba: compiled functions, their cache folder, and one clear error when numba is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = ["apart", "compile_for", "compile_rule", "compiled_here", "njit", "njit_inline", "njit_inner", "wide"]

try:
    import numba
except ImportError as error:  # pragma: no cover - depends on the installation
    from steelyard.errors import InputError

    message = "the serving simulator compiles its kernel with numba: pip install 'steelyard[fast]'"
    raise InputError(message, field="numba") from error

_F = TypeVar("_F", bound=Callable[..., Any])

#: A whole number of 64 bits: numba would compile a function anew for shorter ones, and for each constant.
wide: Any = np.int64

#: Folders of earlier states of the code that are kept beside the present one.
KEPT = 12
#: Files whose functions and constants are part of the machine code, from this folder.
SOURCES = ("jit.py", "step_eval.py", "step_table.py", "../simulation/kernel/*.py", "../simulation/policies/*.py")

#: ``_nrt``: no reference counts. Nothing compiled here allocates, and counting arrays in and out of calls would be most
#: of the time to compile the kernel; the option is numba's own, though not one it documents.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
#: A function that only compiled code calls needs no way in from Python.
_INNER: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
#: A rule is called by the address of its C wrapper.
_RULE: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _cache_root() -> Path:
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    return Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))


def _cache_folder() -> str:
    """A folder under the user's cache folder of the platform, named for the content of the compiled modules.

    numba notices a change of the file of a compiled function, not of the constants and functions it takes from other
    files; a folder per state of all of them does. The newest few are kept. Empty: no folder can be written to.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return str(os.environ["NUMBA_CACHE_DIR"])
    state = sha256(numba.__version__.encode())
    for pattern in SOURCES:
        for path in sorted(Path(__file__).parent.glob(pattern)):
            state.update(path.read_bytes())
    root = _cache_root() / "steelyard" / "numba"
    folder = root / state.hexdigest()[:16]
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            others = sorted((p for p in root.iterdir() if p != folder), key=lambda p: p.stat().st_mtime, reverse=True)
            for old in others[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written to")
    except OSError as error:
        print(f"compiled code is not kept for the next time: {error}", file=sys.stderr)
        return ""
    return str(folder)


#: numba's settings, which its types do not describe.
_SETTINGS: Any = numba.config
_FOLDER = "" if _SETTINGS.DISABLE_JIT else _cache_folder()


def njit(function: _F) -> _F:
    """Compile on first call and keep the machine code on disk; without fast-math, so that results repeat exactly.

    The function may not allocate: arrays come in as arguments.
    """
    compiled: _F = _kept(function, **_OPTIONS, cache=bool(_FOLDER))
    return compiled


def _kept(function: Any, *signature: Any, **options: Any) -> Any:
    """``numba.njit`` with our folder for what it keeps on disk."""
    before = _SETTINGS.CACHE_DIR
    try:
        _SETTINGS.CACHE_DIR = _FOLDER or before
        compiled: Any = numba.njit(*signature, **options)(function)
    finally:
        _SETTINGS.CACHE_DIR = before
    if _FOLDER:
        kept: Any = compiled._cache
        save = kept.save_overload

        def save_alone(*arguments: Any) -> None:
            with _alone():
                save(*arguments)

        kept.save_overload = save_alone
    return compiled


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time keeps machine code.

    numba reads its index of a function, picks a free file name and writes both back: two processes that keep code for
    different arguments at once would pick the same name, and the index would say one and the file hold the other. Where
    files cannot be locked they are written without a lock.
    """
    try:
        import fcntl

        Path(_FOLDER).mkdir(parents=True, exist_ok=True)
        file = (Path(_FOLDER) / "lock").open("a")
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compile_rule(function: Any, signature: Any) -> Any:
    """Compile a rule for one signature; ours are kept on disk, a user's are compiled each time."""
    if function.__module__.startswith("steelyard.") and _FOLDER:
        return _kept(function, signature, **_RULE, cache=True)
    return numba.njit(signature, **_RULE)(function)


def njit_inline(function: _F) -> _F:
    """An inner function of every step, put into its caller: handing over many arrays takes as long as it."""
    compiled: _F = numba.njit(**_INNER, forceinline=True)(function)
    return compiled


def njit_inner(function: _F) -> _F:
    """A function that only compiled code calls: no way in from Python, no place of its own on the disk."""
    compiled: _F = numba.njit(**_INNER)(function)
    return compiled


def apart() -> None:
    """Keep the function that calls this out of its callers' machine code; no instruction of its own.

    LLVM counts what a call costs by its arguments, of which the kernel's arrays are hundreds: it would put every
    function into every caller, and the optimisation of what comes out is most of the time to compile the kernel.
    """


def _type_apart(_context: Any) -> Any:
    types: Any = numba.types
    return lambda: types.none


def _lower_apart(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
    builder.function.attributes.discard("alwaysinline")
    builder.function.attributes.add("noinline")
    return context.get_dummy_value()


if not _SETTINGS.DISABLE_JIT:
    import numba.extending

    _EXTENDING: Any = numba.extending
    _EXTENDING.type_callable(apart)(_type_apart)
    _EXTENDING.lower_builtin(apart)(_lower_apart)


def compiled_here() -> bool:
    """False where ``NUMBA_DISABLE_JIT`` has everything played by Python."""
    return not _SETTINGS.DISABLE_JIT


def compile_for(function: Any, arguments: tuple[Any, ...]) -> None:
    """Have the machine code for such arguments ready, from the disk or compiled now."""
    if compiled_here():
        kind: Any = numba.typeof
        kinds = tuple(kind(x) for x in arguments)
        if kinds not in function.overloads:
            function.compile(kinds)
