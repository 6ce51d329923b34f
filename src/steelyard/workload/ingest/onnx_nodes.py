"""Which ops of the table a node of ONNX is, and the facts of it that shapes do not say.

Most names stand in the op table. Here are those that depend on their inputs (a product with a weight is linear), that
are several ops in one (an attention with its projection), and convolutions, pools and recurrences with their windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from steelyard.errors import InputError, printable
from steelyard.workload.ingest.onnx_values import FLOATS, I8, Found, Value
from steelyard.workload.op_table import named_by

__all__ = ["OURS", "found"]

#: Domains whose ops have the names of the table.
OURS = ("", "com.microsoft", "com.ms.internal.nhwc", "com.microsoft.nchwc")

_Attributes = Mapping[str, Any]
_Ins = Sequence[Value | None]


def _present(ins: _Ins) -> list[Value]:
    return [x for x in ins if x is not None]


def _picked(ins: _Ins, places: Sequence[int], needed: int = 2) -> list[Value]:
    """Inputs at these places, as far as there are any; the first ones must be there."""
    got = [ins[i] if i < len(ins) else None for i in places]
    if None in got[:needed]:
        raise InputError("an op lacks an input")
    return _present(got)


def _window(a: _Attributes, rank: int, kernel: Sequence[int], x: Sequence[int], out: Sequence[int]) -> dict[str, Any]:
    """Kernel, stride, padding in front and dilation of a window over ``rank`` extents."""
    stride = [int(s) for s in a.get("strides") or [1] * rank]
    dilation = [int(d) for d in a.get("dilations") or [1] * rank]
    auto = a.get("auto_pad", b"NOTSET")
    auto = auto.decode("ascii", "replace") if isinstance(auto, bytes) else auto
    padding = [int(p) for p in (a.get("pads") or [0] * 2 * rank)[:rank]]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = [
            (o - 1) * s + (k - 1) * d + 1 - n for o, s, k, d, n in zip(out, stride, kernel, dilation, x, strict=False)
        ]
        padding = [max(span, 0) // 2 for span in spans]
    elif auto == "VALID":
        padding = [0] * rank
    facts = {"kernel": [int(k) for k in kernel], "stride": stride, "padding": padding, "dilation": dilation}
    if any(len(v) != rank for v in facts.values()) or min((*stride, *dilation, *facts["kernel"], 1)) < 1:
        raise InputError("a window has a stride, dilation or kernel below 1, or of another rank")
    return {**facts, "same": True} if auto == "SAME_UPPER" else facts  # as TensorFlow lays its borders


def _conv(
    ins: list[Value], outs: list[Value], a: _Attributes, transposed: bool = False, blocked: bool = False
) -> list[Found]:
    if len(ins) < 2:
        raise InputError("an op lacks an input")
    x, w = ins[0], ins[1]
    last = bool(a.get("channels_last", 0))
    rank = len(w.shape) - 2
    if rank < 1 or len(x.shape) != rank + 2 or len(outs[0].shape) != rank + 2:
        raise InputError("a convolution has inputs of other ranks")
    channels = x.shape[-1 if last else 1]
    if not last and not blocked and channels != (w.shape[0] if transposed else w.shape[1] * int(a.get("group", 1))):
        raise InputError(f"a convolution of {channels} channels has a weight for others")
    kernel = w.shape[1:-1] if last else w.shape[2:]
    spatial = slice(1, -1) if last else slice(2, None)
    facts = _window(a, rank, kernel, x.shape[spatial], outs[0].shape[spatial])
    facts["groups"] = int(a.get("group", 1))
    if transposed:
        facts["transposed"] = True
    return [Found("conv", ins, outs, facts)]


def _product(x: Value, w: Value, more: Sequence[Value], outs: list[Value], transposed: bool = False) -> list[Found]:
    """A linear layer where the second operand is a weight of two extents, else a product of two activations."""
    if not x.shape:
        raise InputError("a matrix product has a scalar operand")
    facts: dict[str, Any] = {}
    if transposed:
        facts["depth"] = x.shape[-2] if len(x.shape) > 1 else x.shape[-1]
    op = "linear" if w.const and len(w.shape) == 2 else "matmul"
    return [Found(op, [x, w, *more], outs, facts)]


def _einsum_depth(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Extents of all indices over those of the output: the depth of a product written as an einsum."""
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    extents: dict[str, int] = {}
    rest: list[int] = []
    if len(terms) != len(shapes):
        raise InputError("an einsum has another number of operands")
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        head, tail = len(before), len(after)
        if len(shape) < head + tail or (not dots and len(shape) != head):
            raise InputError("an einsum has operands of other ranks")
        extents.update(zip(before, shape[:head], strict=True))
        extents.update(zip(after, shape[len(shape) - tail :], strict=True))
        middle = list(shape[head : len(shape) - tail]) if dots else []
        rest = middle if prod(middle) > prod(rest) else rest
    if "->" not in equation:
        right = "".join(sorted(c for c in extents if left.count(c) == 1))
    kept = right.replace("...", "")
    summed = prod(n for c, n in extents.items() if c not in kept)
    return summed if "..." in right or "->" not in equation else summed * prod(rest)


def _einsum(ins: list[Value], outs: list[Value], a: _Attributes) -> list[Found]:
    equation = a.get("equation", b"")
    equation = equation.decode("ascii", "replace") if isinstance(equation, bytes) else str(equation)
    depth = _einsum_depth(equation, [x.shape for x in ins])
    if len(ins) == 1:
        return [Found("mean" if depth > 1 else "copy", ins, outs)]
    if depth == 1:
        return [Found("mul", ins, outs)]
    return [Found("matmul", ins, outs, {"depth": depth})]


def _recurrent(gates: int, ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    x, _, r = _picked(ins, (0, 1, 2), 3)
    if len(x.shape) != 3 or len(r.shape) != 3:
        raise InputError("a recurrence has inputs of other ranks")
    facts = {"layers": 1, "hidden": int(r.shape[2]), "gates": gates, "directions": int(r.shape[0])}
    return [Found("recurrent", _present(ins), outs, facts)]


def _pool(op: str, ins: list[Value], outs: list[Value], a: _Attributes) -> list[Found]:
    x, out = ins[0].shape, outs[0].shape
    kernel = a.get("kernel_shape")
    if not kernel:
        return [Found(op, ins[:1], outs)]
    rank = len(kernel)
    if len(x) != rank + 2 or len(out) != rank + 2:
        raise InputError("a pool has inputs of other ranks")
    spatial = slice(1, -1) if a.get("channels_last", 0) else slice(2, None)
    facts = _window(a, rank, kernel, x[spatial], out[spatial])
    facts.pop("dilation")
    return [Found(op, ins[:1], outs, facts)]


def _heads(x: Value, count: int) -> tuple[Value, list[Found]]:
    """(batch, length, heads x width) as (batch, heads, length, width); four extents stay."""
    if len(x.shape) == 4:
        return x, []
    if len(x.shape) != 3 or count < 1 or x.shape[2] % count:
        raise InputError("an attention has heads that do not divide its width")
    b, n, width = x.shape
    view = x.viewed((b, count, n, width // count))
    return view, [Found("view", [x], [view])]


def _attended(
    q: Value, k: Value, v: Value, mask: Sequence[Value], out: Value, counts: tuple[int, int], causal: bool
) -> list[Found]:
    """An attention over heads; keys and values of fewer heads are shared among queries."""
    steps: list[Found] = []
    made = []
    for x, count in zip((q, k, v), (counts[0], counts[1], counts[1]), strict=True):
        view, more = _heads(x, count)
        steps += more
        made.append(view)
    return [*steps, Found("attention", [*made, *mask], [out], {"causal": True} if causal else {})]


def _cached(past: Value | None, new: Value, count: int, present: Value | None) -> tuple[Value, list[Found]]:
    """Keys or values with those of earlier tokens before them."""
    if past is None or len(past.shape) != 4:
        return new, []
    view, steps = _heads(new, count)
    b, n, length, width = view.shape
    shape = (b, n, past.shape[2] + length, width)
    whole = present if present is not None and present.shape == shape else Value(shape, new.elem)
    return whole, [*steps, Found("concat", [past, view], [whole])]


def _attention(ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """Attention of ONNX 23: Q, K, V, mask, earlier keys and values."""
    q, k, v = _picked(ins, (0, 1, 2), 3)
    mask, past_k, past_v = ((ins[i] if i < len(ins) else None) for i in (3, 4, 5))
    count = int(a.get("q_num_heads") or q.shape[1])
    shared = int(a.get("kv_num_heads") or k.shape[1])
    k, one = _cached(past_k, k, shared, outs[1] if len(outs) > 1 else None)
    v, two = _cached(past_v, v, shared, outs[2] if len(outs) > 2 else None)
    return [*one, *two, *_attended(q, k, v, _present([mask]), outs[0], (count, shared), bool(a.get("is_causal", 0)))]


def _with_projection(ins: _Ins, outs: list[Value], a: _Attributes, quantised: bool = False) -> list[Found]:
    """Attention of ONNX Runtime: one product makes queries, keys and values of the input, and they attend."""
    x, w = _picked(ins, (0, 1))[:2]
    if len(x.shape) != 3 or len(w.shape) != 2:
        raise InputError("an attention has inputs of other ranks")
    got: list[Value | None] = [*ins, *[None] * (9 - len(ins))]
    bias, past = got[2], got[8 if quantised else 4]
    sizes = [int(n) for n in a.get("qkv_hidden_sizes") or [w.shape[1] // 3] * 3]
    count = int(a.get("num_heads", 1))
    b, n, _ = x.shape
    elem = outs[0].elem
    whole = Value((b, n, w.shape[1]), elem)
    parts = [Value((b, n, width), elem, of=whole) for width in sizes]
    steps = [Found("linear", [x, w, *_present([bias])], [whole]), Found("view", [whole], parts)]
    q, k, v = parts
    if past is not None and len(past.shape) == 5:
        earlier = past.viewed(past.shape[1:])
        k, one = _cached(earlier, k, count, None)
        v, two = _cached(earlier, v, count, None)
        steps += [Found("view", [past], [earlier]), *one, *two]
    return [*steps, *_attended(q, k, v, (), outs[0], (count, count), bool(a.get("unidirectional", 0)))]


def _many_heads(ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """MultiHeadAttention of ONNX Runtime: queries, keys and values apart, packed, or keys with values."""
    count = int(a.get("num_heads", 1))
    got: list[Value | None] = [*ins, *[None] * (10 - len(ins))]
    q, k, v, bias, _, more, past_k, past_v = got[:8]
    if q is None:
        raise InputError("an attention has no query")
    steps: list[Found] = []
    if len(q.shape) == 5:  # batch, length, heads, three, width
        b, n, h, _, width = q.shape
        parts = [Value((b, h, n, width), q.elem, of=q) for _ in range(3)]
        steps.append(Found("view", [q], parts))
        q, k, v = parts
    elif k is not None and len(k.shape) == 5:
        b, n, h, _, width = k.shape
        parts = [Value((b, h, n, width), k.elem, of=k) for _ in range(2)]
        steps.append(Found("view", [k], parts))
        k, v = parts
    if k is None or v is None:
        k = v = q
    if bias is not None:
        added = Value(q.shape, q.elem)
        steps.append(Found("add", [q, bias], [added]))
        q = added
    k, one = _cached(past_k, k, count, outs[1] if len(outs) > 1 else None)
    v, two = _cached(past_v, v, count, outs[2] if len(outs) > 2 else None)
    causal = bool(a.get("unidirectional", 0))
    return [*steps, *one, *two, *_attended(q, k, v, _present([more]), outs[0], (count, count), causal)]


def _grouped(ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """GroupQueryAttention of ONNX Runtime, causal, with a cache of keys and values."""
    got: list[Value | None] = [*ins, *[None] * (9 - len(ins))]
    q, k, v, past_k, past_v = got[:5]
    count, shared = int(a.get("num_heads", 1)), int(a.get("kv_num_heads", 1))
    if q is None or len(q.shape) != 3:
        raise InputError("an attention has no query of three extents")
    steps: list[Found] = []
    if k is None or v is None:  # packed: heads of queries, keys and values after one another
        b, n, width = q.shape
        each = width // max(count + 2 * shared, 1)
        parts = [Value((b, n, h * each), q.elem, of=q) for h in (count, shared, shared)]
        steps.append(Found("view", [q], parts))
        q, k, v = parts
    k, one = _cached(past_k, k, shared, outs[1] if len(outs) > 1 else None)
    v, two = _cached(past_v, v, shared, outs[2] if len(outs) > 2 else None)
    return [*steps, *one, *two, *_attended(q, k, v, (), outs[0], (count, shared), True)]


def _few_bits(ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """MatMulNBits of ONNX Runtime: a weight of N x K numbers of few bits, with scales per block."""
    x, packed = _picked(ins, (0, 1))[:2]
    bits, n, k = int(a.get("bits", 4)), int(a.get("N", 0)), int(a.get("K", 0))
    weight = packed
    for scale in _present(ins[2:]):
        scale.role = "buffer" if scale.role == "weight" else scale.role
    if bits in (2, 4, 8) and n * k == packed.size * 8 // bits:
        if packed.stored is None:  # every use of a weight is the same tensor
            packed.stored = Value((n, k), I8, packed.role, packed.const, dtype=f"i{bits}")
        weight = packed.stored
    return [Found("linear", [x, weight, *_picked(ins, (0, 1, 2, 3))[2:]], outs, {"depth": k} if k else {})]


def _embedded(ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """EmbedLayerNormalization of ONNX Runtime: words, positions and segments looked up, added and normalised."""
    got: list[Value | None] = [*ins, *[None] * (9 - len(ins))]
    ids, words = got[0], got[2]
    if ids is None or words is None:
        raise InputError("an op lacks an input")
    rows = [t for t in (got[2], got[3], got[4]) if t is not None]
    parts = [Value(outs[0].shape, outs[0].elem) for _ in rows]
    looked = [Found("gather", [table, ids], [part]) for table, part in zip(rows, parts, strict=True)]
    return [*looked, Found("layer_norm", [*parts, *_present(got[5:7])], outs[:1])]


def _linear_of(places: Sequence[int], ins: _Ins, outs: list[Value]) -> list[Found]:
    x, w, *more = _picked(ins, places)
    return _product(x, w, more, outs)


def _gemm(ins: _Ins, outs: list[Value], a: _Attributes, places: Sequence[int] = (0, 1, 2)) -> list[Found]:
    x, w, *more = _picked(ins, places)
    return _product(x, w, more, outs, transposed=bool(a.get("transA", 0)))


#: Names that are not simply a row of the table: a function of inputs, outputs and attributes.
_SPECIAL: Mapping[str, Callable[[_Ins, list[Value], _Attributes], list[Found]]] = {
    "Conv": lambda i, o, a: _conv(_present(i), o, a),
    "ConvInteger": lambda i, o, a: _conv(_picked(i, (0, 1)), o, a),
    "DeformConv": lambda i, o, a: _conv(_present(i), o, a),
    "FusedConv": lambda i, o, a: _conv(_present(i), o, a),
    "NhwcFusedConv": lambda i, o, a: _conv(_present(i), o, {**a, "channels_last": 1}),
    "ConvTranspose": lambda i, o, a: _conv(_present(i), o, a, transposed=True),
    "QLinearConv": lambda i, o, a: _conv(_picked(i, (0, 3, 8)), o, a),
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": lambda i, o, a: _gemm(i, o, a, (0, 3, 6)),
    "MatMul": lambda i, o, a: _linear_of((0, 1), i, o),
    "MatMulInteger": lambda i, o, a: _linear_of((0, 1), i, o),
    "QLinearMatMul": lambda i, o, a: _linear_of((0, 3), i, o),
    "DynamicQuantizeMatMul": lambda i, o, a: _linear_of((0, 1, 4), i, o),
    "MatMulIntegerToFloat": lambda i, o, a: _linear_of((0, 1, 6), i, o),
    "FusedMatMul": lambda i, o, a: _gemm(i, o, a, (0, 1)),
    "TransposeMatMul": lambda i, o, a: _gemm(i, o, a, (0, 1)),
    "MatMulNBits": _few_bits,
    "Einsum": lambda i, o, a: _einsum(_present(i), o, a),
    "LSTM": lambda i, o, a: _recurrent(4, i, o, a),
    "GRU": lambda i, o, a: _recurrent(3, i, o, a),
    "RNN": lambda i, o, a: _recurrent(1, i, o, a),
    "MaxPool": lambda i, o, a: _pool("max_pool", _present(i), o, a),
    "NhwcMaxPool": lambda i, o, a: _pool("max_pool", _present(i), o, {**a, "channels_last": 1}),
    "AveragePool": lambda i, o, a: _pool("avg_pool", _present(i), o, a),
    "LpPool": lambda i, o, a: _pool("avg_pool", _present(i), o, a),
    "QLinearAveragePool": lambda i, o, a: _pool("avg_pool", _present(i), o, a),
    "MultiHeadAttention": _many_heads,
    "GroupQueryAttention": _grouped,
    "QAttention": lambda i, o, a: _with_projection(i, o, a, quantised=True),
    "EmbedLayerNormalization": _embedded,
}


def found(domain: str, op: str, ins: _Ins, outs: list[Value], a: _Attributes) -> list[Found]:
    """The ops of the table that a node is."""
    if domain not in OURS:
        return [Found(printable(f"unknown:{domain}.{op}"[:100]), _present(ins), outs)]
    if op == "Attention":
        return _with_projection(ins, outs, a) if domain == "com.microsoft" else _attention(ins, outs, a)
    if domain == "com.microsoft.nchwc":  # channels in blocks, padded to whole ones
        if op == "Conv":
            return _conv(_present(ins), outs, a, blocked=True)
        if op.startswith("Reorder"):
            return [Found("copy", _present(ins)[:1], outs)]
    if op in _SPECIAL:
        return _SPECIAL[op](ins, outs, a)
    inner = op.removeprefix("QLinear") if domain == "com.microsoft" else op
    if inner != op:  # scales and zero points of arithmetic in integers are a few numbers
        kept = [x for x in _present(ins) if x.size > 1] or _present(ins)[:1]
        return [Found(named_by("onnx", inner), kept, outs)]
    row = named_by("onnx", printable(op[:80]))
    if row == "batch_norm":
        for x in ins[3:5]:
            if x is not None and x.role == "weight":
                x.role = "buffer"
        outs = outs[:1]
    return [Found(*_plain(row, op, _present(ins), outs, a))]


def _plain(
    row: str, op: str, ins: list[Value], outs: list[Value], a: _Attributes
) -> tuple[str, list[Value], list[Value]]:
    """A row of the table, or a view where nothing moves."""
    if not ins or not outs:
        return row, ins, outs
    x, y = ins[0], outs[0]
    same = x.type == y.type and x.size == y.size
    nothing = (
        (row == "cast" and x.type == y.type)
        or op in ("Dropout", "Identity")
        or (op in ("Expand", "Tile", "Pad") and same)
        or (op == "Slice" and x.shape == y.shape)
        or (op == "Transpose" and _in_place(x.shape, a.get("perm")))
        or (op in ("Split", "Concat") and len(ins) == 1 and x.shape == y.shape)
    )
    if (row == "view" or nothing) and same and not x.const:
        y.of = x
        return "view", [x], outs[:1]
    if row == "view":
        return ("copy" if not same and x.type in FLOATS else "view"), ins, outs
    return row, ins, outs


def _in_place(shape: Sequence[int], order: Sequence[int] | None) -> bool:
    """Whether a transpose moves nothing: extents longer than 1 keep their order."""
    order = [int(p) for p in order] if order else list(reversed(range(len(shape))))
    long = [p for p in order if 0 <= p < len(shape) and shape[p] > 1]
    return long == sorted(long)
