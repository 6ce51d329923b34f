"""Values of an ONNX graph that are known without running it: sizes, indices, and what is reckoned from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["MOST_VALUES", "folded"]

#: Most elements of a value that is reckoned.
MOST_VALUES = 4096

_Array = np.ndarray[Any, Any]
_Attributes = Mapping[str, Any]
_Ins = Sequence[_Array | None]

#: numpy's types by the numbers of onnx.proto, of the types that are reckoned with.
_TYPES: Mapping[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}


def _axes(a: _Attributes, ins: _Ins, place: int = 1) -> tuple[int, ...] | None:
    given = ins[place] if len(ins) > place else None
    found = a.get("axes") if given is None else [int(x) for x in given.reshape(-1)]
    return None if found is None else tuple(int(x) for x in found)


def _slice(a: _Attributes, ins: _Ins) -> _Array:
    x = ins[0]
    assert x is not None
    if "starts" in a:
        starts, ends = a["starts"], a["ends"]
        axes, steps = a.get("axes", range(len(starts))), [1] * len(starts)
    else:
        given: list[list[int] | None] = [
            None if len(ins) <= i or (v := ins[i]) is None else [int(n) for n in v.reshape(-1)] for i in range(1, 5)
        ]
        starts, ends = given[0] or [], given[1] or []
        axes, steps = given[2] or range(len(starts)), given[3] or [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -x.shape[axis] else int(end)
        cut[axis] = slice(int(start), last, int(step))
    return x[tuple(cut)]


def _unsqueeze(a: _Attributes, ins: _Ins) -> _Array:
    x, axes = ins[0], _axes(a, ins) or ()
    assert x is not None
    return np.expand_dims(x, axes)


def _squeeze(a: _Attributes, ins: _Ins) -> _Array:
    assert ins[0] is not None
    return np.squeeze(ins[0], _axes(a, ins))


def _reshape(a: _Attributes, ins: _Ins) -> _Array:
    x, shape = ins[0], ins[1]
    assert x is not None and shape is not None
    wanted = [int(n) for n in shape.reshape(-1)]
    keep = not a.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(wanted)])


def _divide(_: _Attributes, ins: _Ins) -> _Array:
    x, y = ins[0], ins[1]
    assert x is not None and y is not None
    if x.dtype.kind == "f":
        return np.divide(x, y)
    if not np.all(y):
        raise ZeroDivisionError
    return np.trunc(x / y).astype(x.dtype)


def _modulo(a: _Attributes, ins: _Ins) -> _Array:
    x, y = ins[0], ins[1]
    assert x is not None and y is not None
    if x.dtype.kind != "f" and not np.all(y):
        raise ZeroDivisionError
    return np.asarray(np.fmod(x, y) if a.get("fmod", 0) else np.mod(x, y))


def _cast(a: _Attributes, ins: _Ins) -> _Array:
    assert ins[0] is not None
    return ins[0].astype(_TYPES[a["to"]])


def _gather(a: _Attributes, ins: _Ins) -> _Array:
    assert ins[0] is not None and ins[1] is not None
    return np.take(ins[0], ins[1].astype(np.int64), axis=a.get("axis", 0))


def _range(_: _Attributes, ins: _Ins) -> _Array:
    start, end, step = (x.reshape(-1)[0].item() for x in ins if x is not None)
    if step == 0 or (end - start) / step > MOST_VALUES:
        raise ValueError
    assert ins[0] is not None
    return np.arange(start, end, step, dtype=ins[0].dtype)


def _filled(a: _Attributes, ins: _Ins) -> _Array:
    assert ins[0] is not None
    value = a["value"].data if "value" in a else np.zeros(1, np.float32)
    return np.full([int(n) for n in ins[0]], value.reshape(-1)[0], value.dtype)


def _reduced(function: Callable[..., Any]) -> Callable[[_Attributes, _Ins], _Array]:
    def reduce(a: _Attributes, ins: _Ins) -> _Array:
        axes = _axes(a, ins)
        if not axes and a.get("noop_with_empty_axes", 0):
            return np.asarray(ins[0])
        return np.asarray(function(ins[0], axis=axes or None, keepdims=bool(a.get("keepdims", 1))))

    return reduce


def _each(function: Callable[..., Any]) -> Callable[[_Attributes, _Ins], _Array]:
    return lambda _, ins: np.asarray(function(*ins))


def _many(function: Callable[..., Any]) -> Callable[[_Attributes, _Ins], _Array]:
    def apply(_: _Attributes, ins: _Ins) -> _Array:
        made = np.asarray(ins[0])
        for x in ins[1:]:
            made = function(made, x)
        return made

    return apply


def _transpose(a: _Attributes, ins: _Ins) -> _Array:
    return np.transpose(np.asarray(ins[0]), a.get("perm"))


def _expand(_: _Attributes, ins: _Ins) -> _Array:
    x, shape = ins[0], ins[1]
    assert x is not None and shape is not None
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(n) for n in shape)))


_FOLD: Mapping[str, Callable[[_Attributes, _Ins], _Array]] = {
    "Identity": lambda _, ins: np.asarray(ins[0]),
    "Cast": _cast,
    "Gather": _gather,
    "Concat": lambda a, ins: np.concatenate([x for x in ins if x is not None], axis=a["axis"]),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": lambda _, ins: np.tile(np.asarray(ins[0]), [int(n) for n in np.asarray(ins[1])]),
    "Range": _range,
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Mod": _modulo,
    "Where": _each(np.where),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceMean": _reduced(np.mean),
    "Max": _many(np.maximum),
    "Min": _many(np.minimum),
    "Sum": _many(np.add),
    "Add": _each(np.add),
    "Sub": _each(np.subtract),
    "Mul": _each(np.multiply),
    "Pow": _each(np.power),
    "Neg": _each(np.negative),
    "Abs": _each(np.abs),
    "Floor": _each(np.floor),
    "Ceil": _each(np.ceil),
    "Sqrt": _each(np.sqrt),
    "Round": _each(np.round),
    "Sign": _each(np.sign),
    "Not": _each(np.logical_not),
    "Equal": _each(np.equal),
    "Less": _each(np.less),
    "Greater": _each(np.greater),
    "And": _each(np.logical_and),
    "LessOrEqual": _each(np.less_equal),
    "GreaterOrEqual": _each(np.greater_equal),
    "Or": _each(np.logical_or),
}


def folded(op: str, attributes: _Attributes, ins: _Ins, most: int) -> _Array | None:
    """What an op makes of known values; None where it is not reckoned.

    Args:
        op: its name in ONNX.
        attributes: its attributes; tensors as arrays.
        ins: values of its inputs, None for one left out.
        most: elements of the output, from its shape.
    """
    function = _FOLD.get(op)
    if function is None or most > MOST_VALUES or sum(x.size for x in ins if x is not None) > 4 * MOST_VALUES:
        return None
    try:
        with np.errstate(all="ignore"):
            made = function(attributes, ins)
    except (ArithmeticError, AssertionError, IndexError, KeyError, TypeError, ValueError, MemoryError):
        return None
    return made if made.size <= MOST_VALUES else None
