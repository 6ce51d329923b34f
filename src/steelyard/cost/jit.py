"""The door to numba: compiled functions, kept on the disk; without numba, or with it off, Python plays them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

__all__ = ["apart", "compile_for", "compile_rule", "compiled_here", "njit", "njit_inline", "njit_inner", "wide"]

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

_F = TypeVar("_F", bound=Callable[..., Any])

#: A whole number of 64 bits: numba would compile a function anew for shorter ones, and for each constant.
wide: Any = np.int64

#: ``_nrt``: no reference counts. Nothing compiled here allocates, and counting arrays in and out of calls would be most
#: of the time to compile the kernel; the option is numba's own, though not one it documents.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
#: A function that only compiled code calls needs no way in from Python.
_INNER: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
#: A rule is called by the address of its C wrapper.
_RULE: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


#: Whether functions are compiled here; numba's settings are what its types do not describe.
_SETTINGS: Any = None if numba is None else numba.config
_COMPILED: bool = numba is not None and not _SETTINGS.DISABLE_JIT
_SAID: list[str] = []


def njit(function: _F) -> _F:
    """Compile on first call and keep the machine code on disk; without fast-math, so that results repeat exactly.

    The function may not allocate: arrays come in as arguments.
    """
    compiled: _F = _kept(function, **_OPTIONS)
    return compiled


def _kept(function: Any, *signature: Any, **options: Any) -> Any:
    """``numba.njit``, its machine code kept on the disk."""
    if not _COMPILED:
        return function
    from steelyard.cost.kept_code import KeptCode, place

    compiled: Any = numba.njit(**options)(function)
    compiled._cache = KeptCode(function, place())
    for each in signature:
        compiled.compile(each)
    if signature:
        compiled.disable_compile()
    return compiled


def compile_rule(function: Any, signature: Any) -> Any:
    """Compile a rule for one signature; ours are kept on disk, a user's are compiled each time."""
    if function.__module__.startswith("steelyard."):
        return _kept(function, signature, **_RULE)
    return numba.njit(signature, **_RULE)(function)


def njit_inline(function: _F) -> _F:
    """An inner function of every step, put into its caller: handing over many arrays takes as long as it."""
    compiled: _F = numba.njit(**_INNER, forceinline=True)(function) if _COMPILED else function
    return compiled


def njit_inner(function: _F) -> _F:
    """A function that only compiled code calls: no way in from Python, no place of its own on the disk."""
    compiled: _F = numba.njit(**_INNER)(function) if _COMPILED else function
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


if _COMPILED:
    import numba.extending

    _EXTENDING: Any = numba.extending
    _EXTENDING.type_callable(apart)(_type_apart)
    _EXTENDING.lower_builtin(apart)(_lower_apart)


def compiled_here() -> bool:
    """False where everything is played by Python: numba is not installed, or ``NUMBA_DISABLE_JIT`` is set."""
    return _COMPILED


def compile_for(function: Any, arguments: tuple[Any, ...]) -> None:
    """Have the machine code for such arguments ready, from the disk or compiled now; say so where there is none."""
    if compiled_here():
        kind: Any = numba.typeof
        kinds = tuple(kind(x) for x in arguments)
        if kinds not in function.overloads:
            function.compile(kinds)
    elif not _SAID:
        reason = (
            "numba is not installed: pip install 'steelyard[fast]'" if numba is None else "NUMBA_DISABLE_JIT is set"
        )
        _SAID.append(reason)
        with suppress(OSError, ValueError, AttributeError):
            print(f"simulating without compiled code, some hundred times slower ({reason})", file=sys.stderr)
