"""Sizes that are still open: polynomials of named symbols, such as ``49*batch`` or ``batch*tokens + 1``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.errors import InputError, show

__all__ = ["Extent", "Monomial", "at", "extent", "parse", "stated"]

#: Symbols of one term, in order; none: the constant.
Monomial = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """A polynomial of symbols with whole coefficients: ``((("batch",), 49), ((), 1))`` is ``49*batch + 1``."""

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        return str(stated(self))


def extent(terms: Mapping[Monomial, int]) -> int | Extent:
    """The size with these terms; a plain number when no symbol is left."""
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Extent(tuple(sorted(kept.items(), reverse=True)))


def at(size: int | Extent, sizes: Mapping[str, Any]) -> Any:
    """The size with its symbols set to numbers or arrays over scenarios.

    Raises:
        InputError: a symbol has no size.
    """
    if not isinstance(size, Extent):
        return size
    total: Any = 0
    for symbols, coefficient in size.terms:
        term: Any = coefficient
        for symbol in symbols:
            if symbol not in sizes:
                raise InputError(f"expected a size, as --set {symbol}=1", field=f"set.{symbol}")
            term = term * sizes[symbol]
        total = total + term
    return total


def stated(size: int | Extent) -> int | str:
    """As it is written in files: a number, or text such as ``"49*batch+1"``."""
    if not isinstance(size, Extent):
        return size
    return "+".join("*".join((str(c), *m)) for m, c in size.terms)


_TERM = re.compile(r"-?\d+(\*[A-Za-z_]\w*)*")


def parse(text: object) -> int | Extent:
    """What :func:`stated` wrote. Raises :class:`InputError`."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    if not isinstance(text, str) or len(text) > 500:
        raise InputError(f"expected a size such as 3 or '49*batch+1', got {show(text)}")
    terms: dict[Monomial, int] = {}
    for term in text.split("+"):
        if not _TERM.fullmatch(term):
            raise InputError(f"expected a size such as 3 or '49*batch+1', got {show(text)}")
        number, *symbols = term.split("*")
        terms[tuple(symbols)] = terms.get(tuple(symbols), 0) + int(number)
    return extent(terms)
