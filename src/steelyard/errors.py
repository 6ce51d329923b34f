"""Errors a user can act on: the field, what was expected, and the nearest valid choice.

Exit codes of the command line: 1 where the place failed (disk, memory, a closed stream), 2 for bad input, 3 for "the
question is fine but the answer is that it does not fit"; 130 after Ctrl-C, 128 + signal after SIGTERM and SIGHUP.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from steelyard.spoken import meant

__all__ = [
    "MAX_ECHO",
    "DoesNotFit",
    "InputError",
    "Problem",
    "SteelyardError",
    "UnknownName",
    "bounded",
    "check_whole",
    "complete",
    "escaped",
    "normalise",
    "printable",
    "raise_all",
    "show",
    "suggest",
]

_F = TypeVar("_F", bound=Callable[..., Any])

#: Characters of an input that a message repeats.
MAX_ECHO = 80
#: Longest text of one problem, and most problems written out in one error.
_MAX_MESSAGE, _MAX_PROBLEMS = 1200, 20
#: Most known names written out where none is near, most characters of them, and likeness from which one is near
#: (Ratcliff-Obershelp).
_MAX_KNOWN, _MAX_LISTED, _NEAR = 16, 320, 0.6
_NONE: Mapping[str, str] = {}
#: Characters that steer a terminal, or turn the order of what is read.
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)
#: What Python writes of an object that has no words of its own.
_OBJECT = re.compile(r"<(?:\w+\.)*(\w+)(?: object| [\w.<>]+)? at 0x[0-9a-fA-F]+>")
#: A quoted value (its opening quote does not follow a letter, as that of "its machine's" does), and a word.
_LONG = re.compile(
    rf"""(?<!\w)(?:'(?:[^'\\]|\\.){{{MAX_ECHO},}}'|"(?:[^"\\]|\\.){{{MAX_ECHO},}}")(?!\w)|\S{{{MAX_ECHO},}}"""
)


def show(value: object, most: int = MAX_ECHO) -> str:
    """A value as a message repeats it: on one line, quoted if it is text, at most ``most`` characters."""
    try:
        text = repr(value[: 2 * most] if isinstance(value, str | bytes) else value)
    except Exception:  # whole numbers of thousands of digits; a list that holds itself; an object that fails to say
        text = f"a {type(value).__name__} too large to write"
    return _short(text, most)


def escaped(text: str, *, keep: str = "", blank: str = "") -> str:
    """A text in which characters that steer a terminal are written as their numbers, such as ``\\x1b``.

    Args:
        text: from anybody.
        keep: those of them that stay.
        blank: those of them that become a blank.
    """

    def written(match: re.Match[str]) -> str:
        found = match[0]
        return found if found in keep else " " if found in blank else ascii(found)[1:-1]

    return _STEERING.sub(written, text)


def printable(text: str) -> str:
    """A name on one line, without characters that steer a terminal or change the order of what is read."""
    return " ".join(escaped(text, blank="\t\n\r").split())


def bounded(message: str) -> str:
    """A message without control characters, in which no value takes more than about :data:`MAX_ECHO` characters."""
    message = _OBJECT.sub(r"an object of type \1", escaped(message, blank="\t\n\r"))
    message = _LONG.sub(lambda m: _short(m.group(), MAX_ECHO), message[: 100 * _MAX_MESSAGE])
    return _short(message, _MAX_MESSAGE)


def _short(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]}…{text[-(most // 3 - 1) :]}"


class SteelyardError(Exception):
    """Base of every error Steelyard raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(bounded(message))


class InputError(SteelyardError, ValueError):
    """An input is wrong. ``problems`` lists every problem found once, each with its field path."""

    exit_code = 2

    def __init__(self, message: str, *, field: str = "", problems: Sequence[Problem] = ()) -> None:
        once = {(p.field, p.message): p for p in problems}
        self.problems: tuple[Problem, ...] = tuple(once.values()) or (Problem(field, message),)
        self.message = bounded(message)
        self.field = bounded(field)
        shown = [str(p) for p in self.problems[:_MAX_PROBLEMS]]
        if len(self.problems) > _MAX_PROBLEMS:
            shown.append(f"and {len(self.problems) - _MAX_PROBLEMS:,} more problems")
        Exception.__init__(self, "; ".join(shown))

    def at(self, prefix: str) -> InputError:
        """The same error with ``prefix`` put before each field path."""
        moved = [Problem(f"{prefix}.{p.field}" if p.field else prefix, p.message) for p in self.problems]
        return InputError(moved[0].message, field=moved[0].field, problems=moved)


class UnknownName(InputError):
    """A name that no catalogue entry answers to; ``nearest`` lists the closest known ones.

    Args:
        kind: what is named.
        name: what was written.
        known: every name, and every other spelling.
        hint: where all are listed.
        means: the name that a spelling stands for.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, hint: str = "", means: Mapping[str, str] = _NONE
    ) -> None:
        names = list(known)
        near = suggest(name, names, 9, kind=kind)
        self.nearest = list(dict.fromkeys(means.get(n, n) for n in near))[:3]
        message = f"unknown {kind} {name!r}"
        if self.nearest:
            message += f"; did you mean {_or(self.nearest)}?"
        elif 0 < len(shown := dict.fromkeys(means.get(n, n) for n in names)) <= _MAX_KNOWN:
            listed = ", ".join(shown)
            message += f"; known: {listed}" if len(listed) <= _MAX_LISTED else ""
        if hint:
            message += f" ({hint})"
        super().__init__(message, field=kind)


class DoesNotFit(SteelyardError):
    """The workload does not fit the machine; ``change`` is the nearest change that would make it fit."""

    exit_code = 3

    def __init__(self, message: str, *, change: str = "") -> None:
        self.change = change
        super().__init__(message + (f"; nearest change that fits: {change}" if change else ""))


class Problem:
    """One thing wrong with an input: ``field`` is its path (``compute[0].peak.bf16``), ``message`` says what."""

    __slots__ = ("field", "message")

    def __init__(self, field: str, message: str) -> None:
        self.field = bounded(field)
        self.message = bounded(message)

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def __repr__(self) -> str:
        return f"Problem({self.field!r}, {self.message!r})"


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise one :class:`InputError` that carries all ``problems``; do nothing when there is none."""
    if problems:
        raise InputError(problems[0].message, field=problems[0].field, problems=problems)


def complete(function: _F) -> _F:
    """Have a call of a function, or of a class, that lacks arguments, has others, or numbers for text end in
    :class:`InputError`."""
    if isinstance(function, type):
        function.__init__ = complete(function.__init__)  # type: ignore[misc]
        return function

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except (TypeError, AttributeError):
            raise_all(_wrong_call(function, args, named))
            raise_all(_no_text(function, args, named))
            raise

    return call  # type: ignore[return-value]


def _wrong_call(function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the arguments of a call; nothing where they are those of the function."""
    import inspect

    known = inspect.signature(function).parameters
    by_place = [n for n, p in known.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = {p.kind for p in known.values()}
    found = []
    if len(args) > len(by_place) and inspect.Parameter.VAR_POSITIONAL not in several:
        names, given = ([n for n in by_place if n != "self"], len(args) - ("self" in known))
        found.append(Problem("", f"expected {', '.join(names)}, got {given} values without a name"))
    placed = by_place[: len(args)]
    for name in named:
        if name in placed:
            found.append(Problem(name, "given twice"))
        elif name not in known and inspect.Parameter.VAR_KEYWORD not in several:
            near = suggest(name, known, 1)
            found.append(Problem(name, "unknown argument" + (f"; did you mean {near[0]!r}?" if near else "")))
    for name, p in known.items():
        variable = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not variable and name not in placed and name not in named:
            found.append(Problem(name, "required argument is missing"))
    return found


def check_whole(value: Any, field: str, least: int, most: int, of: str = "") -> int:
    """The value, a whole number within bounds; ``of``: what it counts. Raises :class:`InputError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f"{least:,} to {most:,}"
        expected = f"{bounds} {of}" if of else f"a whole number from {bounds}"
        raise InputError(f"expected {expected}, got {show(value)}", field=field)
    return value


#: Other than text, what an annotation may say that a plain value is.
_PLAIN = {"bool": bool, "int": int, "float": int | float, "None": type(None), "Any": object}


def _no_text(function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> list[Problem]:
    """Arguments of a call that are a number, None or a list where text is expected."""
    import inspect

    signature = inspect.signature(function)
    found = []
    for name, value in signature.bind_partial(*args, **named).arguments.items():
        said = [part.strip() for part in str(signature.parameters[name].annotation).split("|")]
        several = any(part.startswith(("Sequence[", "Mapping[")) for part in said)
        able = tuple(_PLAIN[part] for part in said if part in _PLAIN)
        if "str" not in said or isinstance(value, str) or any(isinstance(value, kind) for kind in able):
            continue
        if value is None or isinstance(value, int | float) or (isinstance(value, list | tuple) and not several):
            found.append(Problem(name, f"expected {'text or a list' if several else 'text'}, got {show(value)}"))
    return found


def normalise(name: str) -> str:
    """The key under which a name is looked up: lower case, letters and digits only.

    ``normalise("NVIDIA H100 80GB HBM3") == "nvidiah10080gbhbm3"``.
    """
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def suggest(name: str, known: Iterable[str], count: int = 3, *, kind: str = "") -> list[str]:
    """The ``count`` known names nearest to ``name``, best first.

    What it means elsewhere (:mod:`steelyard.spoken`); else those it is the initials of, those spelled alike
    (Ratcliff-Obershelp on normalised names), those it is a part of, those that are one of its words.

    Args:
        name: what was written.
        known: what could have been.
        count: at most so many.
        kind: of the names, for what others call them; empty = by spelling alone.
    """
    import difflib

    name = name[:200]
    key = normalise(name)
    by_key: dict[str, str] = {}
    for candidate in known:
        by_key.setdefault(normalise(candidate), candidate)
    if not key:
        return []
    ours = meant(kind, name) if kind else ""
    if ours and (ours in by_key.values() or normalise(ours.partition(":")[0]) in by_key):
        return [ours]
    initials = [v for v in by_key.values() if "".join(w[0] for w in re.split(r"[^A-Za-z0-9]+", v) if w) == key]
    inside = [v for k, v in by_key.items() if len(key) > 2 and key in k]
    words = [w for w in map(normalise, re.split(r"[^A-Za-z0-9]+", name)) if w]
    alike = difflib.get_close_matches(key, by_key, n=3 * count, cutoff=_NEAR)
    begins = re.match(r"[a-z]*\d+", key)  # "h100" of "h100x": the number of a model matters most
    stem = begins[0] if begins else words[0]
    close = [by_key[k] for k in sorted(alike, key=lambda k: stem not in k)][:count]
    parts = [by_key[w] for w in words if len(w) > 2 and w in by_key]
    initials = initials if len(key) > 1 else []
    return list(dict.fromkeys([*initials, *close, *sorted(inside, key=len), *parts]))[:count]


def _or(names: Sequence[str]) -> str:
    quoted = [repr(n) for n in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
