"""Kernels of a network before any machine: their classes, operations and bytes, and how widths are settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from steelyard.deployment.runtime import TILE, Precision
from steelyard.workload.op import Array
from steelyard.workload.tensor_counts import macs, touched
from steelyard.workload.tensor_graph import WIDTHS, Node, TensorGraph

__all__ = [
    "CLASSES",
    "PRODUCTS",
    "Lowering",
    "NetKernels",
    "bytes_of",
    "class_of",
    "is_product",
    "is_wide",
    "product_bytes",
    "product_of",
    "serial_of",
    "settle",
]

#: Kernel classes whose operations count against the matrix engine.
PRODUCTS = ("conv1x1", "conv", "grouped", "linear", "matmul", "attention", "recurrent")
#: All classes.
CLASSES: tuple[str, ...] = (
    *PRODUCTS,
    *("wide", "depthwise", "depthwise_large", "batch_norm", "norm", "softmax", "reduce", "pool", "resize", "pointwise"),
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
    """Steps that must follow one another inside the kernel; of attention its scores."""
    nodes: tuple[Node, ...] = ()
    """The op that each is named for; of kernels that are added later there is none."""

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> Array:
        """Which kernels are of a class."""
        return np.array([c == name for c in self.classes], dtype=np.bool_)

    def more(self, rows: Sequence[tuple[str, Array, Array]]) -> NetKernels:
        """With kernels behind them: class, bytes read and written of each."""
        if not rows:
            return self
        classes, read, written = zip(*rows, strict=True)
        shape = (len(rows), self.flops.shape[1])
        none = np.zeros(shape)
        added = {"flops": none, "padded": none, "weights": none, "serial": np.ones(shape)}
        added |= {"read": np.broadcast_to(read, shape), "written": np.broadcast_to(written, shape)}
        arrays = {n: np.concatenate([getattr(self, n), values]) for n, values in added.items()}
        names = ("exchange",) * len(rows)
        return NetKernels(
            self.names + names, self.classes + tuple(classes), self.ops + names, **arrays, nodes=self.nodes
        )

    def times(self, passes: float) -> NetKernels:
        """The kernels of so many passes together."""
        amounts = {n: getattr(self, n) * passes for n in ("flops", "padded", "read", "written", "weights", "serial")}
        return replace(self, **amounts)

    @property
    def bytes(self) -> Array:
        """All bytes that cross a kernel's border."""
        return self.read + self.written + self.weights


class Lowering:
    """Kernels being made."""

    def __init__(
        self,
        graph: TensorGraph,
        sizes: Mapping[str, Any],
        precision: Precision,
        tile: tuple[float, ...] = TILE,
        layout: str = "",
        block: float = 1.0,
    ) -> None:
        self.graph, self.sizes, self.precision, self.tile, self.layout = graph, sizes, precision, tile, layout
        self.block = block
        self.width: dict[int, float] = {}
        self.users = readers(graph)
        self.typed = any(t.dtype in ("bf16", "f16") for t in graph.tensors if t.role == "weight")
        """Whether the graph itself says which tensors are wide, as one traced in 16 bits does."""
        self.rows: list[tuple[str, str, str, Any, Any, Any, Any, Any, Any]] = []
        self.nodes: list[Node] = []

    def bits(self, tensor: int) -> float:
        """Width of a tensor as it lies in memory."""
        t = self.graph.tensors[tensor]
        if t.dtype not in ("f32", "f16", "bf16"):
            return WIDTHS[t.dtype]
        if self.typed and t.dtype == "f32":
            return 32.0
        if t.role in ("weight", "buffer", "constant"):
            return self.precision.stored_bits
        if self.typed:
            return self.precision.bits
        return self.width.get(tensor, 32.0 if self.precision.cast else self.precision.bits)

    def laid(self, tensor: int) -> Any:
        """Elements of an image as it lies in memory, channels in whole blocks, over those it has."""
        t = self.graph.tensors[tensor]
        if self.block <= 1.0 or len(t.shape) < 4 or t.role in ("weight", "buffer", "constant"):
            return 1.0
        channels = self.graph.shape(tensor, self.sizes)[1]
        return _padded(channels, self.block) / channels

    def moved(self, node: Node) -> tuple[list[Any], list[Any]]:
        """Elements of every operand and result that a node touches, with the filling of their blocks."""
        read, written = touched(self.graph, node, self.sizes)
        return (
            [n * self.laid(i) for n, i in zip(read, node.inputs, strict=True)],
            [n * self.laid(o) for n, o in zip(written, node.outputs, strict=True)],
        )

    def put(
        self, node: Node, cls: str, flops: Any, padded: Any, read: Any, written: Any, weights: Any, serial: Any = 1.0
    ) -> None:
        """One kernel more."""
        self.nodes.append(node)
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
        flops, padded, read, written, weights, serial = arrays
        made = tuple(self.nodes)
        return NetKernels(names, classes, ops, flops, padded, read, written, weights, serial, nodes=made)


def _padded(x: Any, to: float) -> Any:
    return np.ceil(np.asarray(x, dtype=np.float64) / to) * to


def product_of(
    graph: TensorGraph, node: Node, sizes: Mapping[str, Any], tile: tuple[float, ...] = TILE
) -> tuple[str, Any, Any]:
    """Class, operations and operations with full tiles of a product."""
    flops = 2.0 * macs(graph, node, sizes)
    if node.op == "conv":
        return _convolution(graph, node, sizes, flops, tile)
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
    m, n, k = (_padded(x, t) for x, t in zip((rows, columns, depth), tile[:3], strict=True))
    return node.op, flops, 2.0 * groups * m * n * k


def _convolution(
    graph: TensorGraph, node: Node, sizes: Mapping[str, Any], flops: Any, tile: tuple[float, ...]
) -> tuple[str, Any, Any]:
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
    if groups > 1:
        tile = (tile[0], min(tile[1], 16.0), min(tile[2], 16.0), *tile[3:])
    if len(tile) > 3:  # depth is filled up channel by channel, for every point of the window
        depth = _padded(depth / points, tile[2]) * points
    m, n, k = (_padded(x, t) for x, t in zip((rows, columns, depth), tile[:3], strict=True))
    cls = "grouped" if groups > 1 else "conv1x1" if points == 1 else "conv"
    return cls, flops, 2.0 * groups * m * n * k


def is_product(node: Node) -> bool:
    """Whether an op is a product or a recurrence, whose operands have the width of products."""
    return node.kind.group in ("product", "recurrent")


def class_of(node: Node) -> str:
    """The class of an op that is no product."""
    if node.op == "batch_norm":
        return "batch_norm"
    if node.op == "cast":
        return "cast"
    return "norm" if node.kind.group == "norm" else _OF_GROUP[node.kind.group]


def bytes_of(lowering: Lowering, node: Node) -> tuple[Any, Any, Any]:
    """Bytes of activations read and written, and of weights read, of one node."""
    graph = lowering.graph
    read, written = lowering.moved(node)
    roles = [graph.tensors[i].role for i in node.inputs]
    sizes = [n * lowering.bits(i) / 8 for n, i in zip(read, node.inputs, strict=True)]
    weights = sum((n for n, r in zip(sizes, roles, strict=True) if r in ("weight", "buffer")), 0.0)
    activations = sum((n for n, r in zip(sizes, roles, strict=True) if r not in ("weight", "buffer")), 0.0)
    made = sum((n * lowering.bits(o) / 8 for n, o in zip(written, node.outputs, strict=True)), 0.0)
    return activations, made, weights


def is_wide(lowering: Lowering, node: Node) -> bool:
    """Whether a product runs in 32 bits although others do not: all its operands are wide."""
    tensors = [lowering.graph.tensors[i] for i in node.inputs[:2]]
    return lowering.typed and lowering.precision.bits < 32.0 and all(t.dtype == "f32" for t in tensors)


def settle(lowering: Lowering, node: Node) -> None:
    """Widths of what a node puts out."""
    p, graph = lowering.precision, lowering.graph
    if node.kind.group == "view":
        width = max((lowering.bits(i) for i in node.inputs), default=p.bits)
    elif is_product(node):
        width = p.bits
    elif p.cast and node.op in _WIDE:
        width = 32.0
    else:
        floats = [i for i in node.inputs if graph.tensors[i].dtype in ("f32", "f16", "bf16")]
        moving = [lowering.bits(i) for i in floats if graph.tensors[i].role in ("input", "activation")]
        width = max(moving, default=32.0 if p.cast else p.bits)
    for o in node.outputs:
        lowering.width[o] = width


def product_bytes(lowering: Lowering, node: Node) -> tuple[Any, Any, Any]:
    """As :func:`bytes_of`, with operands in the width of products."""
    graph, p = lowering.graph, lowering.precision
    read, written = lowering.moved(node)
    main = 2 if node.op in ("conv", "linear") else len(read)
    stored = p.bits if p.cast else p.stored_bits
    if is_wide(lowering, node):
        return sum(read[:2], 0.0) * 4.0, written[0] * 4.0, 0.0
    weights: Any = 0.0
    activations: Any = 0.0
    for n, i in zip(read[:main], node.inputs[:main], strict=True):
        if graph.tensors[graph.storage(i)].role in ("weight", "buffer"):
            weights = weights + n * stored / 8
        else:
            activations = activations + n * p.bits / 8
    return activations, written[0] * p.bits / 8, weights


def serial_of(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], layout: str = "") -> Any:
    """Steps that follow one another: of a recurrence its frames, layer after layer; of a resize that mixes pixels of
    images whose channels come first, images x channels; of attention its scores, each of which is raised."""
    if node.op == "resize" and not str(node.facts.get("mode", "nearest")).startswith("nearest"):
        if _channels_last(graph, node.inputs[0], layout):
            return 1.0
        out = graph.shape(node.outputs[0], sizes)  # a thread for each pixel goes over images and channels
        return prod(out[:2], start=1.0)
    if node.op == "attention":
        q, k = (graph.shape(i, sizes) for i in node.inputs[:2])
        return prod(q[:-1], start=1.0) * k[-2] * (0.5 if node.facts.get("causal") else 1.0)
    if node.op != "recurrent":
        return 1.0
    x = graph.shape(node.inputs[0], sizes)
    frames = x[1 if node.facts.get("batch_first") and len(x) > 2 else 0]
    return frames * node.facts["layers"]


def _channels_last(graph: TensorGraph, tensor: int, layout: str) -> bool:
    """Whether an image lies in memory with its channels side by side: as convolutions put it out in that layout, or as
    rows of tokens that are only viewed as an image."""
    makers = {o: n for n in graph.nodes for o in n.outputs}
    channels = graph.tensors[tensor].shape[1]
    while True:
        node, t = makers.get(tensor), graph.tensors[tensor]
        if t.of >= 0:
            tensor = graph.storage(tensor)
            if graph.tensors[tensor].shape[-1] == channels:
                return True
        elif node is None or node.op == "conv" or len(t.shape) != 4:
            return layout == "nhwc"
        elif node.kind.group in ("pointwise", "norm", "pool", "resize") and node.inputs:
            tensor = node.inputs[0]
        else:
            return False


def readers(graph: TensorGraph) -> dict[int, list[Node]]:
    """Nodes that read each storage, views left out (they pass it on)."""
    found: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.kind.group == "view":
            continue
        for i in node.inputs:
            found.setdefault(graph.storage(i), []).append(node)
    return found
