"""Lists and ranges of whole numbers as llama-bench writes them: ``1,2,4``, ``1-256*2`` (doubling), ``1-10+3``."""

from __future__ import annotations

import re

from steelyard.errors import InputError, show

__all__ = ["MAX_VALUES", "expand"]

#: Most values one list or range stands for.
MAX_VALUES = 100_000

_RANGE = re.compile(r"^(-?\d{1,19})-(-?\d{1,19})(?:([*+])(-?\d{1,19}))?$")
_WHOLE = re.compile(r"^[+-]?\d{1,19}$")


def spread_hint(value: object) -> str:
    """Where lengths that vary, such as ``lognormal:600``, are taken; empty for anything else."""
    spread = isinstance(value, str) and re.match(r"\s*[a-z]+:", value) is not None
    return "; simulate takes lengths that vary" if spread else ""


def expand(text: str, field: str) -> list[int]:
    """The whole numbers a list or range stands for, in order: ``"1-8*2" -> [1, 2, 4, 8]``.

    Raises:
        InputError: not a number, list or range, or more than :data:`MAX_VALUES` values.
    """
    found: list[int] = []
    for part in text.split(","):
        part = part.strip().replace("_", "")
        if _WHOLE.match(part):
            found.append(int(part))
            continue
        match = _RANGE.match(part)
        if match is None:
            words = f"expected a whole number, a list (1,2,4) or a range (1-256*2, 1-10+3), got {show(text)}"
            raise InputError(words + spread_hint(text), field=field)
        first, last, kind, step = match.groups()
        found += _range(int(first), int(last), kind or "+", int(step or 1), text, field)
        if len(found) > MAX_VALUES:
            raise InputError(f"the list {show(text)} has more than {MAX_VALUES:,} values", field=field)
    return found


def _range(first: int, last: int, kind: str, step: int, text: str, field: str) -> list[int]:
    if last < first or (kind == "*" and first < 1):
        raise InputError(f"the range {show(text)} is empty or starts below 1", field=field)
    if step < (2 if kind == "*" else 1):
        raise InputError(f"the range {show(text)} does not advance", field=field)
    if kind == "+":
        points = (last - first) // step + 1
        if points > MAX_VALUES:
            raise InputError(f"the range {show(text)} has {points:,} points; at most {MAX_VALUES:,}", field=field)
        return list(range(first, last + 1, step))
    found = []
    while first <= last:
        found.append(first)
        first *= step
    return found
