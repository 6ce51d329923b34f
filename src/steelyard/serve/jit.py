"""The door to numba: one cache folder, one clear error when it is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["njit", "njit_inline", "njit_inner"]

#: Modules of compiled functions and of the constants they use.
_COMPILED = (
    "evaluate", "events", "fleet", "jit", "kernel", "lower_tiers", "methods", "migrate", "past_future", "pricing",
    "queue", "residents", "schedule", "state", "step_table", "timer", "transfer",
)  # fmt: skip

_F = TypeVar("_F", bound=Callable[..., Any])


def _cache_folder() -> Path:
    """A folder under the user's cache folder of the platform, named for the state of the compiled modules.

    numba notices a change of the file of a compiled function, not of the constants and functions it takes from other
    files; a folder per state does.
    """
    home = Path.home()
    if sys.platform == "darwin":
        root = home / "Library" / "Caches"
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    state = sha256()
    for name in _COMPILED:
        found = Path(__file__).with_name(f"{name}.py").stat()
        state.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return root / "steelyard" / "numba" / state.hexdigest()[:16]


try:
    import numba
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError("the serving simulator compiles its kernel with numba: pip install 'steelyard[fast]'") from error


#: No reference counts: nothing compiled here allocates, and counting arrays in and out of calls took most of the time.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {**_OPTIONS, "cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_FOLDER = "" if os.environ.get("NUMBA_CACHE_DIR") else str(_cache_folder())


def njit(function: _F) -> _F:
    """Compile on first call and keep the machine code on disk; without fast-math, so that results repeat exactly.

    The function may not allocate: arrays come in as arguments. The cache folder is the user's where one is set.
    """
    return _compiled(function)


def njit_inline(function: _F) -> _F:
    """An inner function of every step, put into its caller: handing over many arrays takes as long as it."""
    compiled: _F = numba.njit(**_INNER, forceinline=True)(function)
    return compiled


def njit_inner(function: _F) -> _F:
    """The same for a function that only compiled code calls: no way in from Python, which takes long to compile for
    many arrays, and no place of its own on the disk."""
    compiled: _F = numba.njit(**_INNER)(function)
    return compiled


def _compiled(function: _F) -> _F:
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = _FOLDER or before
        compiled: _F = numba.njit(**_OPTIONS)(function)
    finally:
        settings.CACHE_DIR = before
    return compiled
