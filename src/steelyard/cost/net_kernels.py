"""The kernels a runtime makes of a network: classes, operations and bytes, before any machine.

Eager PyTorch launches a kernel for every op. A runtime that joins pointwise ops makes one kernel of those that lie
between the same products; what passes inside stays on chip, and only what crosses a border is traffic. A runtime that
joins epilogues puts them into the product before them as well, and folds batch normalisations into its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from steelyard.deployment.runtime import Precision, Runtime
from steelyard.workload.op import Array
from steelyard.workload.tensor_counts import macs, operations, touched
from steelyard.workload.tensor_graph import WIDTHS, Node, TensorGraph

__all__ = ["CLASSES", "NetKernels", "lower_net"]

#: Kernel classes whose operations count against the matrix engine.
PRODUCTS = ("conv1x1", "conv", "grouped", "linear", "matmul", "attention", "recurrent")
#: All classes.
CLASSES: tuple[str, ...] = (
    *PRODUCTS,
    *("depthwise", "depthwise_large", "batch_norm", "norm", "softmax", "reduce", "pool", "resize", "pointwise"),
    *("fused", "cast", "weight_cast", "copy", "gather", "sort", "other"),
)
_OF_GROUP: Mapping[str, str] = {
    "pointwise": "pointwise",
    "softmax": "softmax",
    "reduce": "reduce",
    "pool": "pool",
    "resize": "resize",
    "move": "copy",
    "gather": "gather",
    "scatter": "gather",
    "sort": "sort",
    "scan": "other",
    "transform": "other",
    "fill": "copy",
    "unknown": "other",
}
#: Ops whose results autocast keeps in 32 bits.
_WIDE = ("layer_norm", "group_norm", "rms_norm", "softmax", "norm", "cumsum", "exp")
#: Points of the largest depthwise kernel (7 x 7) that libraries have kernels of their own for.
LARGE_KERNEL = 49
#: Rows, columns and depth that a tile of a product is padded to.
_TILE = (64.0, 64.0, 32.0)


@dataclass(frozen=True, eq=False)
class NetKernels:
    """Kernels in order; arrays are ``[kernels, scenarios]``."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    ops: tuple[str, ...]
    flops: Array
    """Arithmetic operations, 2 per multiply-accumulate."""
    padded: Array
    """Those of products with rows, columns and depth filled up to tiles; of others as above."""
    read: Array
    written: Array
    weights: Array
    """Bytes of activations read and written, and of weights read."""
    serial: Array
    """Steps that must follow one another inside the kernel."""

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> Array:
        """Which kernels are of a class."""
        return np.array([c == name for c in self.classes], dtype=np.bool_)

    @property
    def bytes(self) -> Array:
        """All bytes that cross a kernel's border."""
        return self.read + self.written + self.weights


class _Lowering:
    """Kernels being made."""

    def __init__(self, graph: TensorGraph, sizes: Mapping[str, Any], precision: Precision) -> None:
        self.graph, self.sizes, self.precision = graph, sizes, precision
        self.width: dict[int, float] = {}
        self.users = _readers(graph)
        self.rows: list[tuple[str, str, str, Any, Any, Any, Any, Any, Any]] = []

    def bits(self, tensor: int) -> float:
        """Width of a tensor as it lies in memory."""
        t = self.graph.tensors[tensor]
        if t.dtype not in ("f32", "f16", "bf16"):
            return WIDTHS[t.dtype]
        if t.role in ("weight", "buffer", "constant"):
            return self.stored
        return self.width.get(tensor, 32.0 if self.precision.cast else self.precision.bits)

    @property
    def stored(self) -> float:
        """Width of weights in memory."""
        p = self.precision
        return 32.0 if p.cast else {"fp32": 32.0, "tf32": 32.0, "int8": 8.0, "fp8": 8.0}.get(p.weights, 16.0)

    def put(
        self, node: Node, cls: str, flops: Any, padded: Any, read: Any, written: Any, weights: Any, serial: Any = 1.0
    ) -> None:
        """One kernel more."""
        self.rows.append((node.name or node.op, cls, node.op, flops, padded, read, written, weights, serial))

    def kernels(self) -> NetKernels:
        """What was made, as arrays."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * 9
        names, classes, ops, *numbers = columns
        shape = np.broadcast_shapes((1,), *(np.shape(x) for column in numbers for x in column))
        arrays = [
            np.array([np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in column]).reshape(
                len(names), *shape
            )
            for column in numbers
        ]
        return NetKernels(names, classes, ops, *arrays)


def _padded(x: Any, to: float) -> Any:
    return np.ceil(np.asarray(x, dtype=np.float64) / to) * to


def _product(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Class, operations and operations with full tiles of a product."""
    flops = 2.0 * macs(graph, node, sizes)
    if node.op == "conv":
        return _convolution(graph, node, sizes, flops)
    if node.op == "attention":
        q, k, v = (graph.shape(i, sizes) for i in node.inputs[:3])
        rows, depth = prod(q[:-2], start=1.0) * _padded(q[-2], 64), _padded(q[-1], 32) + _padded(v[-1], 32)
        half = 0.5 if node.facts.get("causal") else 1.0
        return "attention", flops * half, 2.0 * rows * _padded(k[-2], 64) * depth * half
    if node.op == "recurrent":
        return "recurrent", flops, flops
    out, a = graph.shape(node.outputs[0], sizes), graph.shape(node.inputs[0], sizes)
    depth = node.facts.get("depth", a[-1])
    columns = out[-1] if out else 1.0
    if node.op == "linear":
        groups, rows = 1.0, prod(out[:-1], start=1.0)
    else:
        groups, rows = prod(out[:-2], start=1.0), out[-2] if len(out) > 1 else 1.0
    m, n, k = (_padded(x, t) for x, t in zip((rows, columns, depth), _TILE, strict=True))
    return node.op, flops, 2.0 * groups * m * n * k


def _convolution(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], flops: Any) -> tuple[str, Any, Any]:
    weight = graph.shape(node.inputs[1], sizes)
    groups = node.facts.get("groups", 1)
    points = prod(node.facts["kernel"], start=1.0)
    if groups > 1 and weight[1] == 1 and not node.facts.get("transposed"):
        return "depthwise_large" if points > LARGE_KERNEL else "depthwise", flops, flops
    if node.facts.get("transposed"):
        source = graph.shape(node.inputs[0], sizes)
        rows, columns, depth = prod(source, start=1.0) / source[1], weight[1] * points, source[1] / groups
    else:
        out = graph.shape(node.outputs[0], sizes)
        channels = weight[0]
        rows, columns, depth = prod(out, start=1.0) / channels, channels / groups, weight[1] * points
    tile = _TILE if groups == 1 else (64.0, 16.0, 16.0)
    m, n, k = (_padded(x, t) for x, t in zip((rows, columns, depth), tile, strict=True))
    cls = "grouped" if groups > 1 else "conv1x1" if points == 1 else "conv"
    return cls, flops, 2.0 * groups * m * n * k


def _class(node: Node) -> str:
    if node.op == "batch_norm":
        return "batch_norm"
    if node.op == "cast":
        return "cast"
    return "norm" if node.kind.group == "norm" else _OF_GROUP[node.kind.group]


def lower_net(graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision) -> NetKernels:
    """The kernels of one pass.

    Args:
        graph: the network.
        sizes: values of its symbols; arrays over scenarios are ``[scenarios]``.
        runtime: what joins ops.
        precision: widths, and whether weights are cast at every pass.
    """
    given = {**graph.symbols, **sizes}
    lowering = _Lowering(graph, given, precision)
    if runtime.fuses == "nothing":
        for node in graph.nodes:
            _eager(lowering, node)
    else:
        _fused(lowering, runtime)
    return lowering.kernels()


def _bytes(lowering: _Lowering, node: Node) -> tuple[Any, Any, Any]:
    """Bytes of activations read and written, and of weights read, of one node."""
    graph = lowering.graph
    read, written = touched(graph, node, lowering.sizes)
    roles = [graph.tensors[i].role for i in node.inputs]
    sizes = [n * lowering.bits(i) / 8 for n, i in zip(read, node.inputs, strict=True)]
    weights = sum((n for n, r in zip(sizes, roles, strict=True) if r in ("weight", "buffer")), 0.0)
    activations = sum((n for n, r in zip(sizes, roles, strict=True) if r not in ("weight", "buffer")), 0.0)
    return (
        activations,
        sum((n * lowering.bits(o) / 8 for n, o in zip(written, node.outputs, strict=True)), 0.0),
        weights,
    )


def _settle(lowering: _Lowering, node: Node) -> None:
    """Widths of what a node puts out."""
    p, graph = lowering.precision, lowering.graph
    if node.kind.group in ("product", "recurrent"):
        width = p.bits
    elif p.cast and node.op in _WIDE:
        width = 32.0
    else:
        floats = [i for i in node.inputs if graph.tensors[i].dtype in ("f32", "f16", "bf16")]
        moving = [lowering.bits(i) for i in floats if graph.tensors[i].role in ("input", "activation")]
        width = max(moving, default=32.0 if p.cast else p.bits)
    for o in node.outputs:
        lowering.width[o] = width


def _product_bytes(lowering: _Lowering, node: Node) -> tuple[Any, Any, Any]:
    """As :func:`_bytes`, with operands in the width of products."""
    graph, p = lowering.graph, lowering.precision
    read, written = touched(graph, node, lowering.sizes)
    main = 2 if node.op in ("conv", "linear") else len(read)
    stored = p.bits if p.cast else lowering.stored
    weights: Any = 0.0
    activations: Any = 0.0
    for n, i in zip(read[:main], node.inputs[:main], strict=True):
        if graph.tensors[graph.storage(i)].role in ("weight", "buffer"):
            weights = weights + n * stored / 8
        else:
            activations = activations + n * p.bits / 8
    return activations, written[0] * p.bits / 8, weights


def _casts(lowering: _Lowering, node: Node) -> None:
    """What autocast copies before a product: operands that are 32 bits wide."""
    graph, p = lowering.graph, lowering.precision
    for i in node.inputs:
        n = graph.elements(i, lowering.sizes)
        if graph.tensors[graph.storage(i)].role in ("weight", "buffer"):
            lowering.put(node, "weight_cast", 0.0, 0.0, n * 4, n * p.bits / 8, 0.0)
        elif graph.tensors[i].dtype == "f32" and lowering.bits(i) > p.bits:
            lowering.put(node, "cast", 0.0, 0.0, n * 4, n * p.bits / 8, 0.0)


def _eager(lowering: _Lowering, node: Node) -> None:
    """A kernel for a node, and those that eager execution adds to it."""
    graph, sizes = lowering.graph, lowering.sizes
    group = node.kind.group
    if group == "view":
        for o in node.outputs:
            lowering.width[o] = max((lowering.bits(i) for i in node.inputs), default=lowering.precision.bits)
        return
    if group in ("product", "recurrent"):
        if lowering.precision.cast:
            _casts(lowering, node)
        _settle(lowering, node)
        cls, flops, padded = _product(graph, node, sizes)
        read, written, weights = _product_bytes(lowering, node)
        lowering.put(node, cls, flops, padded, read, written, weights, _serial(graph, node, sizes))
        if node.op == "conv" and len(node.inputs) > 2:  # the bias is added by a kernel of its own
            lowering.put(node, "pointwise", written, written, written, written, 0.0)
        return
    _settle(lowering, node)
    read, written, weights = _bytes(lowering, node)
    flops = operations(graph, node, sizes)
    lowering.put(node, _class(node), flops, flops, read, written, weights, _serial(graph, node, sizes))


def _serial(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> Any:
    """Steps that follow one another: of a recurrence its frames, layer after layer; of a resize that mixes pixels in
    NCHW order images x channels."""
    if node.op == "resize" and not str(node.facts.get("mode", "nearest")).startswith("nearest"):
        out = graph.shape(node.outputs[0], sizes)  # a thread for each pixel goes over images and channels
        return prod(out[:2], start=1.0)
    if node.op != "recurrent":
        return 1.0
    x = graph.shape(node.inputs[0], sizes)
    frames = max(x[:-1], key=lambda d: float(np.max(d))) if len(x) > 2 else x[0]
    return frames * node.facts["layers"]


def _fused(lowering: _Lowering, runtime: Runtime) -> None:
    """Kernels of a runtime that joins ops."""
    graph, sizes = lowering.graph, lowering.sizes
    groups = _groups(graph, runtime)
    for members in groups:
        extern = [n for n in members if n.kind.group in ("product", "recurrent", "sort")]
        for node in members:
            if node.kind.group == "view":
                for o in node.outputs:
                    lowering.width[o] = max((lowering.bits(i) for i in node.inputs), default=lowering.precision.bits)
            else:
                _settle(lowering, node)
        real = [n for n in members if n.kind.group not in ("view", "fill")]
        if not real:
            continue
        if extern:
            node = extern[0]
            cls, flops, padded = _product(graph, node, sizes) if node.kind.group != "sort" else ("sort", 0.0, 0.0)
            if lowering.precision.cast and runtime.fuses == "pointwise" and node.kind.group != "sort":
                _weight_casts(lowering, node)
            read, written, weights = _product_bytes(lowering, node) if cls != "sort" else _bytes(lowering, node)
            if len(real) > 1:
                outside, written, more = _borders(lowering, real)
                read, weights = read + outside, weights + more
            lowering.put(node, cls, flops, padded, read, written, weights, _serial(graph, node, sizes))
            continue
        outside, written, weights = _borders(lowering, real)
        work: Any = sum((operations(graph, n, sizes) for n in real), 0.0)
        kinds = [n.kind.group for n in real]
        cls = "fused" if len(real) > 1 and all(k in ("pointwise", "move", "norm") for k in kinds) else _strongest(real)
        lowering.put(real[0], cls, work, work, outside, written, weights)


def _strongest(members: Sequence[Node]) -> str:
    """The class of a kernel of several ops: the least regular of them."""
    order = (
        "other",
        "gather",
        "resize",
        "pool",
        "softmax",
        "norm",
        "reduce",
        "batch_norm",
        "copy",
        "cast",
        "pointwise",
    )
    classes = {_class(n) for n in members}
    found = next(c for c in order if c in classes)
    return "fused" if found in ("batch_norm", "pointwise", "cast", "copy") else found


def _weight_casts(lowering: _Lowering, node: Node) -> None:
    graph = lowering.graph
    for i in node.inputs:
        if graph.tensors[graph.storage(i)].role == "weight":
            n = graph.elements(i, lowering.sizes)
            lowering.put(node, "weight_cast", 0.0, 0.0, n * 4, n * lowering.precision.bits / 8, 0.0)


def _borders(lowering: _Lowering, members: Sequence[Node]) -> tuple[Any, Any, Any]:
    """Bytes that cross the border of a kernel: read from outside, written for outside, and weights.

    The main operand of a product among the members is not read here.
    """
    graph = lowering.graph
    made = {graph.storage(o) for n in members for o in n.outputs}
    inside = {id(n) for n in members}
    users = lowering.users
    read: dict[int, Any] = {}
    weights: Any = 0.0
    for node in members:
        if node.kind.group in ("product", "recurrent"):
            continue
        counts, _ = touched(graph, node, lowering.sizes)
        for n, i in zip(counts, node.inputs, strict=True):
            owner = graph.storage(i)
            if owner in made:
                continue
            size = n * lowering.bits(i) / 8
            if graph.tensors[owner].role in ("weight", "buffer"):
                weights = weights + size
            else:
                read[owner] = np.maximum(read.get(owner, 0.0), size)
    written: Any = 0.0
    ends = {graph.storage(o) for o in graph.outputs}
    seen: set[int] = set()
    for node in reversed(members):
        for o in node.outputs:
            owner = graph.storage(o)
            used = owner in ends or any(id(u) not in inside for u in users.get(owner, ()))
            if used and owner not in seen:
                seen.add(owner)
                bits = lowering.bits(o)
                if lowering.precision.cast and owner not in ends and _fed(users.get(owner, ()), inside):
                    bits = min(bits, lowering.precision.bits)  # the cast that a product asks for is part of the kernel
                written = written + graph.elements(o, lowering.sizes) * bits / 8
    return sum(read.values(), 0.0), written, weights


def _fed(users: Sequence[Node], inside: set[int]) -> bool:
    """Whether only products read a tensor outside its kernel."""
    return all(u.kind.group in ("product", "recurrent") for u in users if id(u) not in inside)


def _readers(graph: TensorGraph) -> dict[int, list[Node]]:
    """Nodes that read each storage, views left out (they pass it on)."""
    found: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.kind.group == "view":
            continue
        for i in node.inputs:
            found.setdefault(graph.storage(i), []).append(node)
    return found


def _groups(graph: TensorGraph, runtime: Runtime) -> list[list[Node]]:
    """Nodes that become one kernel, in order.

    A node's depth is the number of products on the longest way to it. Ops other than products join those of their depth
    that they exchange tensors with; where epilogues are joined, with the product of that depth that feeds them.
    """
    epilogue = runtime.fuses == "epilogue"
    depth: dict[int, int] = {}
    parent = list(range(len(graph.nodes)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    holds: dict[int, int] = {}
    maker: dict[int, int] = {}
    level: list[int] = []
    for i, node in enumerate(graph.nodes):
        extern = node.kind.group in ("product", "recurrent", "sort")
        inputs = [graph.storage(t) for t in node.inputs]
        own = max((depth.get(s, 0) for s in inputs), default=0) + (1 if extern else 0)
        level.append(own)
        if extern:
            holds[i] = i
        else:
            for s in inputs:
                j = maker.get(s)
                if j is None or level[j] != own:
                    continue
                a, b = root(j), root(i)
                if a in holds and not (epilogue and _joins(node)):
                    continue
                if a != b and not (a in holds and b in holds):
                    parent[b] = a
                    if b in holds:
                        holds[a] = holds.pop(b)
        for t in node.outputs:
            s = graph.storage(t)
            depth[s] = max(depth.get(s, 0), own)
            maker[s] = i
    found: dict[int, list[Node]] = {}
    for i, node in enumerate(graph.nodes):
        found.setdefault(root(i), []).append(node)
    return list(found.values())


def _joins(node: Node) -> bool:
    """Whether an op can be the epilogue of a product: pointwise, a batch normalisation, or a view."""
    return node.kind.group in ("pointwise", "view") or node.op in ("batch_norm", "cast")
