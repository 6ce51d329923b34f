"""The door to numba: compiled functions, kept on the disk; without numba, or with it off, Python plays them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np

from steelyard.errors import InputError

__all__ = [
    "apart",
    "compile_for",
    "compile_rule",
    "compiled_here",
    "need_numba",
    "njit",
    "njit_inline",
    "njit_inner",
    "wide",
]

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
#: Functions with the outlines of arguments for which machine code is there.
_READY: set[tuple[Any, Any]] = set()


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

    compiled: Any = numba.njit(**options | {"pipeline_class": _Whole})(function)
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
    return numba.njit(signature, **_RULE | {"pipeline_class": _Whole})(function)


def njit_inline(function: _F) -> _F:
    """An inner function of every step, put into its caller: handing over many arrays takes as long as it."""
    return _inner(function, forceinline=True)


def njit_inner(function: _F) -> _F:
    """A function that only compiled code calls: no way in from Python, no place of its own on the disk."""
    return _inner(function)


def _inner(function: _F, **options: Any) -> _F:
    if not _COMPILED:
        return function
    compiled: Any = numba.njit(**_INNER | options | {"pipeline_class": _Part})(function)
    _PARTS.append(compiled)
    found: _F = compiled
    return found


#: Functions that only compiled code calls.
_PARTS: list[Any] = []
#: Pieces of machine code in the making, and what numba knows the functions in them by; the last one is filled.
_PIECES: list[tuple[Any, list[Any]]] = []


def _short_name(name: str, kinds: Any, *, abi_tags: Any = (), uid: Any = None) -> str:
    """A function's name in machine code; numba's own spells out every field of its arguments, 60 kB here."""
    return str(_mangle(name, (), abi_tags=(*abi_tags, *map(_digest, kinds)), uid=uid))


@cache
def _digest(kind: Any) -> str:
    return sha256(str(kind).encode()).hexdigest()[:16]


class _Whole:
    """What numba asks to compile a function: it, and all it calls, are one piece of machine code, optimised once.

    By itself numba makes a piece of every function, with all that it calls in it anew: for the kernel some 150 pieces,
    of which only the outermost is ever run, three times the memory and twice the time.
    """

    def __init__(self, typing: Any, target: Any, _library: Any, *rest: Any) -> None:
        self._target = target.subtarget(mangler=_short_name)
        self._piece = target.codegen().create_library("steelyard")
        self._piece.enable_object_caching()
        self._compiler = _COMPILER(typing, self._target, self._piece, *rest)

    def compile_extra(self, function: Any) -> Any:
        """Compile ``function``; what was compiled of its parts for other pieces is laid aside meanwhile."""
        names: list[Any] = []
        aside = [(part, dict(part.overloads)) for part in _PARTS]
        for part in _PARTS:
            part.overloads.clear()
        _PIECES.append((self._piece, names))
        try:
            return self._compiler.compile_extra(function)
        finally:
            _PIECES.pop()
            for name in names:
                self._target.remove_user_function(name)
            for part, made in aside:
                part.overloads.clear()
                part.overloads.update(made)


class _Part:
    """What numba asks to compile a function into the piece that is in the making."""

    def __init__(
        self, typing: Any, target: Any, library: Any, kinds: Any, returned: Any, flags: Any, *rest: Any
    ) -> None:
        self._target, self._piece, self._names = target, library, None
        if _PIECES:
            self._piece, self._names = _PIECES[-1]
            self._target = target.subtarget(mangler=_short_name)
            flags.no_compile = True  # not yet
        self._compiler = _COMPILER(typing, self._target, self._piece, kinds, returned, flags, *rest)

    def compile_extra(self, function: Any) -> Any:
        """Compile ``function``."""
        made = self._compiler.compile_extra(function)
        if self._names is None:
            return made
        self._piece.get_function(made.fndesc.llvm_func_name).linkage = "linkonce_odr"  # gone where it is inlined
        name: Any = [].append  # numba wants a built-in function, one like no other
        self._target.insert_user_function(name, made.fndesc)
        self._names.append(name)
        return made._replace(entry_point=name)


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
    import numba.core.compiler
    import numba.core.itanium_mangler
    import numba.extending

    _COMPILER: Any = numba.core.compiler.Compiler
    _mangle: Any = numba.core.itanium_mangler.mangle

    _EXTENDING: Any = numba.extending
    _EXTENDING.type_callable(apart)(_type_apart)
    _EXTENDING.lower_builtin(apart)(_lower_apart)


def compiled_here() -> bool:
    """False where everything is played by Python: numba is not installed, or ``NUMBA_DISABLE_JIT`` is set."""
    return _COMPILED


def need_numba(field: str) -> None:
    """Refuse what Python would play for minutes, unless that is asked for; raises :class:`InputError`."""
    if numba is None:
        message = "thousands of requests are played, which takes minutes without numba: pip install 'steelyard[fast]'"
        raise InputError(message, field=field)


def _outline(value: Any) -> Any:
    """What the numba type of an argument depends on."""
    if isinstance(value, tuple):
        return type(value), *map(_outline, value)
    if isinstance(value, np.ndarray):
        flags = value.flags
        return value.dtype, value.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    return type(value)


def compile_for(function: Any, arguments: tuple[Any, ...]) -> None:
    """Have the machine code for such arguments ready, from the disk or compiled now; say so where there is none."""
    if compiled_here():
        ready = function, _outline(arguments)
        if ready not in _READY:  # asking numba takes longer than many a run
            kind: Any = numba.typeof
            kinds = tuple(kind(x) for x in arguments)
            if kinds not in function.overloads:
                function.compile(kinds)
            _READY.add(ready)
    elif not _SAID:
        reason = (
            "numba is not installed: pip install 'steelyard[fast]'" if numba is None else "NUMBA_DISABLE_JIT is set"
        )
        _SAID.append(reason)
        with suppress(OSError, ValueError, AttributeError):
            print(f"simulating without compiled code, some hundred times slower ({reason})", file=sys.stderr)
