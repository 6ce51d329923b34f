"""Shapes of what the ``onnx`` package has no rule for: ops of ONNX Runtime, and ops whose results decide their size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.workload.ingest.onnx_values import F32, I8, I32, I64, U8, Value

__all__ = ["contrib_shapes", "guessed"]

_Told = tuple[list[int | None], int]
_Ins = Sequence[Value | None]


def _at(ins: _Ins, place: int) -> Value:
    value = ins[place] if place < len(ins) else None
    if value is None:
        raise InputError("an op lacks an input")
    return value


def _as(value: Value, *more: int) -> list[int | None]:
    return [*value.shape[: len(value.shape) - len(more)], *more]


def _like(place: int = 0) -> Callable[[_Ins, Mapping[str, Any]], list[_Told]]:
    return lambda ins, a: [(list(_at(ins, place).shape), _at(ins, place).elem)]


def _matmul(x_at: int, w_at: int, elem: int = 0) -> Callable[[_Ins, Mapping[str, Any]], list[_Told]]:
    def told(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
        x, w = _at(ins, x_at), _at(ins, w_at)
        one, two = list(x.shape), list(w.shape)
        if len(one) < 2 or len(two) < 2:
            raise InputError("a matrix product has operands of fewer than two extents")
        one = [*one[:-2], one[-1], one[-2]] if a.get("transA", 0) else one
        two = [*two[:-2], two[-1], two[-2]] if a.get("transB", 0) else two
        if one[-1] != two[-2]:
            raise InputError(f"a matrix product of depths {one[-1]} and {two[-2]}")
        try:
            outer = np.broadcast_shapes(tuple(one[:-2]), tuple(two[:-2]))
        except ValueError:
            raise InputError("a matrix product has operands that do not fit") from None
        return [([*outer, one[-2], two[-1]], elem or x.elem)]

    return told


def _projected(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    x, w = _at(ins, 0), _at(ins, 1)
    if len(x.shape) != 3 or len(w.shape) != 2:
        raise InputError("an attention has inputs of other ranks")
    sizes = a.get("qkv_hidden_sizes") or [w.shape[1] // 3] * 3
    b, n, _ = x.shape
    past = next((v for v in ins[4:] if v is not None and len(v.shape) == 5), None)
    elem = F32 if x.elem in (U8, I8) else x.elem
    told: list[_Told] = [([b, n, int(sizes[-1])], elem)]
    if past is not None:
        told.append(([*past.shape[:3], past.shape[3] + n, past.shape[4]], elem))
    return told


def _attended(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    q, count = _at(ins, 0), int(a.get("num_heads", 1))
    shared = int(a.get("kv_num_heads", count))
    got: list[Value | None] = [*ins, *[None] * (8 - len(ins))]
    group = "kv_num_heads" in a
    past = got[3 if group else 6]
    value = got[2]
    told: list[_Told]
    if len(q.shape) == 5:
        told = [([q.shape[0], q.shape[1], q.shape[2] * q.shape[4]], q.elem)]
        width, new, batch = q.shape[4], q.shape[1], q.shape[0]
    elif len(q.shape) == 3:
        batch, new, width = q.shape[0], q.shape[1], q.shape[2] // max(count, 1)
        if group and got[1] is None:
            width = q.shape[2] // max(count + 2 * shared, 1)
        out = width * count
        if value is not None and not group and len(value.shape) == 3:
            new, out = value.shape[1], value.shape[2]
        elif value is not None and not group and len(value.shape) == 4:
            new, out = value.shape[2], value.shape[1] * value.shape[3]
        told = [([batch, q.shape[1], out], q.elem)]
    else:
        raise InputError("an attention has a query of another rank")
    length = new + (past.shape[2] if past is not None and len(past.shape) == 4 else 0)
    cache: _Told = ([batch, shared, length, width], q.elem)
    return [*told, cache, cache]


def _few_bits(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    x, n, k = _at(ins, 0), int(a.get("N", 0)), int(a.get("K", 0))
    if n < 1 or not x.shape or x.shape[-1] != k:
        raise InputError("a matrix product has a depth other than K")
    return [(_as(x, n), x.elem)]


def _normed(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    x = _at(ins, 0)
    return [(list(x.shape), x.elem)] * 4


def _embedded(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    ids, words = _at(ins, 0), _at(ins, 2)
    return [
        ([*ids.shape, words.shape[-1] if words.shape else 1], words.elem),
        ([ids.shape[0] if ids.shape else 1], I32),
    ]


def _broadcast(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    x, y = _at(ins, 0), _at(ins, 3)
    try:
        return [(list(np.broadcast_shapes(x.shape, y.shape)), x.elem)]
    except ValueError:
        raise InputError("operands do not fit one another") from None


def _convolved(x_at: int, w_at: int) -> Callable[[_Ins, Mapping[str, Any]], list[_Told]]:
    """Of a convolution, its channels last where it says so."""

    def told(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
        x, w = _at(ins, x_at), _at(ins, w_at)
        rank = len(w.shape) - 2
        if rank < 1 or len(x.shape) != rank + 2:
            raise InputError("a convolution has inputs of other ranks")
        last = bool(a.get("channels_last", 0))
        spatial = x.shape[1:-1] if last else x.shape[2:]
        kernel = w.shape[1:-1] if last and x_at else w.shape[2:]
        made = _windows(spatial, kernel, a)
        return [([x.shape[0], *made, w.shape[0]] if last else [x.shape[0], w.shape[0], *made], x.elem)]

    return told


def _windows(extents: Sequence[int], kernel: Sequence[int], a: Mapping[str, Any]) -> list[int | None]:
    rank = len(extents)
    stride, dilation = a.get("strides") or [1] * rank, a.get("dilations") or [1] * rank
    pads = a.get("pads") or [0] * 2 * rank
    if not len(stride) == len(dilation) == len(pads) // 2 == len(kernel) == rank or min(stride) < 1:
        raise InputError("a window has a stride, dilation or kernel of another rank")
    if a.get("auto_pad") in (b"SAME_UPPER", b"SAME_LOWER"):
        return [-(-n // s) for n, s in zip(extents, stride, strict=True)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padded = [n + pads[i] + pads[i + rank] for i, n in enumerate(extents)]
    return [(n - span) // s + 1 for n, span, s in zip(padded, spans, stride, strict=True)]


def _pooled(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    x, kernel = _at(ins, 0), a.get("kernel_shape")
    if not x.shape or len(x.shape) < 3:
        raise InputError("a pool has inputs of other ranks")
    last = bool(a.get("channels_last", 0))
    spatial = x.shape[1:-1] if last else x.shape[2:]
    made: list[int | None] = _windows(spatial, kernel, a) if kernel else [1] * len(spatial)
    return [([x.shape[0], *made, x.shape[-1]] if last else [*x.shape[:2], *made], x.elem)]


def _concatenated(ins: _Ins, a: Mapping[str, Any]) -> list[_Told]:
    parts, axis = [x for x in ins[2::3] if x is not None], int(a.get("axis", 0))
    if not parts or not -len(parts[0].shape) <= axis < len(parts[0].shape):
        raise InputError("an axis is beyond the rank")
    if any(len(p.shape) != len(parts[0].shape) for p in parts):
        raise InputError("parts do not fit one another")
    shape: list[int | None] = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    return [(shape, parts[0].elem)]


_CONTRIB: Mapping[str, Callable[[_Ins, Mapping[str, Any]], list[_Told]]] = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "QuickGelu", "Gelu", "BiasSoftmax", "RotaryEmbedding"), _like()),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "BiasAdd", "SkipGroupNorm"), _like()),
    **dict.fromkeys(("GroupNorm", "Inverse", "GemmaRotaryEmbedding", "SparseToDenseMatMul"), _like()),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _normed),
    **dict.fromkeys(("SimplifiedLayerNormalization", "LayerNormalization"), _normed),
    **dict.fromkeys(("Attention", "QAttention"), _projected),
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention"), _attended),
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul", "FusedGemm"), _matmul(0, 1)),
    "QGemm": _matmul(0, 3),
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1, F32),
    "MatMulNBits": _few_bits,
    "EmbedLayerNormalization": _embedded,
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _broadcast),
    **dict.fromkeys(("FusedConv", "NhwcFusedConv"), _convolved(0, 1)),
    "QLinearConv": _convolved(0, 3),
    **dict.fromkeys(("NhwcMaxPool", "QLinearAveragePool", "QLinearGlobalAveragePool"), _pooled),
    "QLinearConcat": _concatenated,
}


def _blocked(op: str, ins: _Ins, a: Mapping[str, Any]) -> list[_Told] | None:
    """Of ops on channels in blocks: shapes are those of all channels before the rest, as without blocks."""
    x = _at(ins, 0)
    if op == "ReorderOutput" and len(x.shape) > 2:
        shape: list[int | None] = [x.shape[0], int(a.get("channels", x.shape[1])), *x.shape[2:]]
        return [([shape[0], *shape[2:], shape[1]] if a.get("channels_last", 0) else shape, x.elem)]
    if op == "ReorderInput" and len(x.shape) > 2:
        return [([x.shape[0], x.shape[-1], *x.shape[1:-1]] if a.get("channels_last", 0) else list(x.shape), x.elem)]
    if op == "Conv":
        return _convolved(0, 1)(ins, a)
    if op == "Upsample":
        scales = a.get("scales") or [1] * len(x.shape)
        return [([n * int(s) for n, s in zip(x.shape, scales, strict=False)], x.elem)]
    return _pooled(ins, a) if "Pool" in op else None


def contrib_shapes(domain: str, op: str, ins: _Ins, a: Mapping[str, Any], outs: int) -> list[_Told] | None:
    """Shapes and types of an op of ONNX Runtime; None where there is no rule here."""
    if domain == "" and op == "SimplifiedLayerNormalization":  # ONNX Runtime puts it there
        return _normed(ins, a)[:outs]
    if domain == "com.microsoft.nchwc":
        return _blocked(op, ins, a)
    if domain not in ("com.microsoft", "com.ms.internal.nhwc") or op not in _CONTRIB:
        return None
    last = {**a, "channels_last": 1} if op.startswith("Nhwc") else a
    return _CONTRIB[op](ins, last)[:outs]


def guessed(op: str, ins: _Ins, a: Mapping[str, Any], told: _Told | None) -> _Told:
    """A shape where neither a rule nor the file says one: the most that the op can put out, or as its first input."""
    first = next((x for x in ins if x is not None), None)
    if first is None:
        return [1], told[1] if told else F32
    elem = told[1] if told else first.elem
    if op == "NonZero":
        return [len(first.shape), first.size], I64
    if op == "NonMaxSuppression":
        boxes = first.shape[1] if len(first.shape) > 1 else 1
        classes = prod(ins[1].shape[:2]) if len(ins) > 1 and ins[1] is not None else 1
        most = ins[2].data if len(ins) > 2 and ins[2] is not None else None
        each = min(boxes, max(int(most.reshape(-1)[0]), 0)) if most is not None and most.size else boxes
        return [each * classes, 3], I64
    if told is None:
        return list(first.shape), elem
    dims, alike = told[0], len(told[0]) == len(first.shape)
    left = max(first.size // max(prod(d for d in dims if d), 1), 1)
    if alike:
        return [first.shape[i] if d is None else d for i, d in enumerate(dims)], elem
    return [(left if dims.count(None) == 1 else 1) if d is None else d for d in dims], elem
