"""The door to numba: one cache folder, one clear error when it is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["compile_for", "njit", "njit_inline", "njit_inner"]

#: Modules of compiled functions and of the constants they use.
_COMPILED = (
    "events",
    "jit",
    "kernel",
    "lora_slots",
    "lower_tiers",
    "methods",
    "migrate",
    "pack",
    "past_future",
    "pricing",
    "queue",
    "routing",
    "schedule",
    "state",
    "timer",
    "transfer",
    "../../cost/step_eval",
    "../../cost/step_table",
)

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
        found = (Path(__file__).parent / f"{name}.py").stat()
        state.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return root / "steelyard" / "numba" / state.hexdigest()[:16]


try:
    import numba
    from numba.core.codegen import JITCodeLibrary
    from numba.core.registry import cpu_target
except ImportError as error:  # pragma: no cover - depends on the installation
    raise ImportError("the serving simulator compiles its kernel with numba: pip install 'steelyard[fast]'") from error


#: No reference counts: nothing compiled here allocates, and counting arrays in and out of calls took most of the time.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {**_OPTIONS, "cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_FOLDER = "" if os.environ.get("NUMBA_CACHE_DIR") else str(_cache_folder())
_WHOLE: Any = JITCodeLibrary
#: Versions of numba whose libraries work as :class:`_Library` expects; others compile in their own, slower way.
_KNOWN = numba.__version__.startswith("0.68.")
#: Names under which numba knows the functions that only compiled code calls.
_PARTS: set[str] = set()


class _Silent:
    """A code generator that sets no environment: a part has no code of its own that could ask for it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def set_env(self, _name: str, _env: Any) -> None:
        """Nothing to set."""


class _Library(_WHOLE):  # type: ignore[misc]
    """Code of one function. That of a part waits for the whole: numba otherwise optimises and translates every function
    again inside each of its callers, which took two thirds of the time to compile the kernel."""

    def __init__(self, codegen: Any, name: str) -> None:
        self._part = name in _PARTS
        super().__init__(codegen, name)

    @property
    def codegen(self) -> Any:
        """The code generator it belongs to."""
        return _Silent(self._codegen) if self._part else self._codegen

    def _optimize_functions(self, module: Any) -> None:
        if self._part:
            module.data_layout = self._codegen._data_layout
        else:
            super()._optimize_functions(module)

    def _optimize_final_module(self) -> None:
        if not self._part:
            passes, builder = self._codegen._module_pass_manager()
            passes.run(self._final_module, builder)

    def _finalize_final_module(self) -> None:
        if self._part:
            self._finalize_dynamic_globals()
            self._finalized = True
        else:
            super()._finalize_final_module()

    def get_pointer_to_function(self, name: str) -> int:
        """Address of the machine code; 0: there is none."""
        return 0 if self._part else int(super().get_pointer_to_function(name))


def _part(function: _F) -> _F:
    """Name a function so that its library is one of parts."""
    function.__qualname__ = f"{function.__module__}.{function.__qualname__}"
    _PARTS.add(function.__qualname__)
    codegen = cpu_target.target_context.codegen()
    if _KNOWN and codegen._library_class is JITCodeLibrary:
        codegen._library_class = _Library
    return function


def _once(compiled: Any) -> Any:
    """Compile a part once and not for every mixture of short and long integers among its arguments."""
    resolve = compiled.get_call_template

    def widened(arguments: Any, names: Any) -> Any:
        return resolve(tuple(_wide(x) for x in arguments), {k: _wide(x) for k, x in names.items()})

    compiled.get_call_template = widened
    return compiled


def _wide(kind: Any) -> Any:
    types: Any = numba.types
    plain = types.unliteral(kind)
    return types.int64 if isinstance(plain, types.Integer) and plain.signed else plain


def njit(function: _F) -> _F:
    """Compile on first call and keep the machine code on disk; without fast-math, so that results repeat exactly.

    The function may not allocate: arrays come in as arguments. The cache folder is the user's where one is set.
    """
    return _compiled(function)


def njit_inline(function: _F) -> _F:
    """An inner function of every step, put into its caller: handing over many arrays takes as long as it."""
    whole: _F = _once(numba.njit(**_INNER, forceinline=True)(_part(function)))
    return whole


def njit_inner(function: _F) -> _F:
    """The same for a function that only compiled code calls: no way in from Python, which takes long to compile for
    many arrays, and no place of its own on the disk."""
    whole: _F = _once(numba.njit(**_INNER)(_part(function)))
    return whole


def _compiled(function: _F) -> _F:
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = _FOLDER or before
        compiled: _F = numba.njit(**_OPTIONS)(function)
    finally:
        settings.CACHE_DIR = before
    return compiled


def compile_for(function: Any, arguments: tuple[Any, ...]) -> None:
    """Have the machine code for such arguments ready, from the disk or compiled now."""
    if not function.nopython_signatures:
        kinds: Any = numba
        function.compile(tuple(kinds.typeof(x) for x in arguments))
