"""Arithmetic written in data files: numbers, names, ``+ - * / // %``, ``min max floor ceil``; nothing else is known."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from functools import cache

from steelyard.errors import InputError, show

__all__ = ["reckon"]

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "Min": min,
    "Max": max,
    "floor": lambda x, *_: math.floor(x),
    "ceil": lambda x, *_: math.ceil(x),
}
#: Longest arithmetic, characters.
_LONGEST = 200


def reckon(text: str, value_of: Callable[[str], float | None], known: str = "the names known") -> float:
    """The value of an expression.

    Args:
        text: ``2 * isl``, ``min(concurrency, 8) / tp``, ``ttft_s.mean + 10 * tpot_s.mean``.
        value_of: the value of a name, dots included; None: there is none.
        known: what names there are, for errors.

    Raises:
        InputError: it is no such arithmetic, a name is unknown, or it divides by zero.
    """
    return _value(_parsed(text, known), value_of, known)


@cache
def _parsed(text: str, known: str) -> ast.expr:
    wrong = InputError(f"expected arithmetic of {known} with + - * / // min max, got {show(text)}")
    if len(text) > _LONGEST:
        raise wrong
    try:
        with warnings.catch_warnings():  # of text such as ``1if``
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise wrong from None


def _dotted(node: ast.expr) -> str:
    """``a.b.c``, ``a.0.c`` written ``a[0].c``; empty when it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        outer = _dotted(node.value)
        return outer and f"{outer}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and type(node.slice.value) is int:
        outer = _dotted(node.value)
        return outer and f"{outer}.{node.slice.value}"
    return ""


def _value(node: ast.expr, value_of: Callable[[str], float | None], known: str) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)  # type: ignore[arg-type]
    name = _dotted(node)
    if name and (value := value_of(name)) is not None:
        return value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, value_of, known), _value(node.right, value_of, known)
        if isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod) and right == 0:
            raise InputError("a division by zero")
        return _OPERATORS[type(node.op)](left, right)
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if called and isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and not node.keywords:
        values = [_value(x, value_of, known) for x in node.args]
        return _FUNCTIONS[node.func.id](*values, values[0])
    raise InputError(f"expected arithmetic of {known} with + - * / // min max{name and f', not {show(name)}'}")
