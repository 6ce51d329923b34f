"""Arithmetic of sizes that may be open: sums, products and whole divisions of polynomials of symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steelyard.errors import InputError
from steelyard.workload.extent import Extent, Monomial, extent

__all__ = ["Size", "divided", "plus", "product", "slid", "times"]

#: An extent of a tensor: a number, or one with symbols that are still open.
Size = int | Extent


def _terms(size: Size) -> Mapping[Monomial, int]:
    return dict(size.terms) if isinstance(size, Extent) else {(): size}


def plus(a: Size, b: Size) -> Size:
    """The sum of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    total = dict(_terms(a))
    for symbols, c in _terms(b).items():
        total[symbols] = total.get(symbols, 0) + c
    return extent(total)


def times(a: Size, b: Size) -> Size:
    """The product of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    total: dict[Monomial, int] = {}
    for left, c in _terms(a).items():
        for right, d in _terms(b).items():
            symbols = tuple(sorted((*left, *right)))
            total[symbols] = total.get(symbols, 0) + c * d
    return extent(total)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; 1 of none."""
    total: Size = 1
    for size in sizes:
        total = times(total, size)
    return total


def divided(a: Size, b: Size) -> Size:
    """``a / b`` where it is whole and ``b`` has one term.

    Raises:
        InputError: it is not.
    """
    if isinstance(a, int) and isinstance(b, int) and b and not a % b:
        return a // b
    parts = _terms(b)
    if len(parts) == 1:
        ((symbols, c),) = parts.items()
        found: dict[Monomial, int] = {}
        for own, value in _terms(a).items():
            left = list(own)
            if not c or value % c or any(left.count(s) < symbols.count(s) for s in symbols):
                break
            for s in symbols:
                left.remove(s)
            found[tuple(left)] = value // c
        else:
            return extent(found)
    raise InputError(f"a size of {a} cannot be cut into {b}", field="size")


def slid(size: Size, kernel: int, stride: int, padding: int, dilation: int, *, up: bool = False) -> Size:
    """Places of a window over a side: ``(size + padding - reach) / stride + 1``; ``padding`` of both ends together.

    Args:
        size: extent of the side.
        kernel: points of the window.
        stride: its steps.
        padding: elements laid around, both ends together.
        dilation: distance of its points.
        up: a last window that only begins inside counts (pools in "ceil mode").

    Raises:
        InputError: the window is larger than the side, or an open size does not divide by the stride.
    """
    reach = dilation * (kernel - 1) + 1
    if isinstance(size, int):
        room = size + padding - reach
        if room < 0:
            raise InputError(
                f"a window of {kernel} does not fit a side of {size}: the input is too small", field="size"
            )
        places = room // stride + 1
        if up and room % stride and places * stride < size + padding // 2:
            places += 1
        return places
    opened = plus(size, padding - reach)
    constant = _terms(opened).get((), 0)
    return plus(divided(plus(opened, -constant), stride), constant // stride + 1)
