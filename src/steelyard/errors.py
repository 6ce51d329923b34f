"""Errors a user can act on: the field, what was expected, and the nearest valid choice.

Exit codes of the command line: 2 for bad input, 3 for "the question is fine but the answer is that it does not fit".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["DoesNotFit", "InputError", "Problem", "SteelyardError", "UnknownName", "normalise", "raise_all", "suggest"]


class SteelyardError(Exception):
    """Base of every error Steelyard raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(SteelyardError, ValueError):
    """An input is wrong. ``problems`` lists every problem found, each with its field path."""

    exit_code = 2

    def __init__(self, message: str, *, field: str = "", problems: Sequence[Problem] = ()) -> None:
        self.message = message
        self.field = field
        self.problems: tuple[Problem, ...] = tuple(problems) or (Problem(field, message),)
        super().__init__("; ".join(str(p) for p in self.problems))

    def at(self, prefix: str) -> InputError:
        """The same error with ``prefix`` put before each field path."""
        moved = [Problem(f"{prefix}.{p.field}" if p.field else prefix, p.message) for p in self.problems]
        return InputError(moved[0].message, field=moved[0].field, problems=moved)


class UnknownName(InputError):
    """A name that no catalogue entry answers to; ``nearest`` lists the closest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.nearest = suggest(name, known)
        message = f"unknown {kind} {name!r}"
        if self.nearest:
            message += f"; did you mean {_or(self.nearest)}?"
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
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def __repr__(self) -> str:
        return f"Problem({self.field!r}, {self.message!r})"


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise one :class:`InputError` that carries all ``problems``; do nothing when there is none."""
    if problems:
        raise InputError(problems[0].message, field=problems[0].field, problems=problems)


def normalise(name: str) -> str:
    """The key under which a name is looked up: lower case, letters and digits only.

    ``normalise("NVIDIA H100 80GB HBM3") == "nvidiah10080gbhbm3"``.
    """
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def suggest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The ``count`` known names closest to ``name``, best first (Ratcliff-Obershelp on normalised names)."""
    import difflib

    key = normalise(name)
    by_key: dict[str, str] = {}
    for candidate in known:
        by_key.setdefault(normalise(candidate), candidate)
    inside = [v for k, v in by_key.items() if key and key in k]
    close = [by_key[k] for k in difflib.get_close_matches(key, by_key, n=count, cutoff=0.5)]
    merged = list(dict.fromkeys([*close, *sorted(inside, key=len)]))
    return merged[:count]


def _or(names: Sequence[str]) -> str:
    quoted = [repr(n) for n in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
