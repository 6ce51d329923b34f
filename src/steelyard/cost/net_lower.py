"""The kernels a runtime makes of a network: classes, operations and bytes, before any machine.

Eager PyTorch launches a kernel for every op. A runtime that joins pointwise ops makes one kernel of those that lie
between the same products; what passes inside stays on chip, and only what crosses a border is traffic. A runtime that
joins epilogues puts them into the product before them as well, and folds batch normalisations into its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from steelyard.cost.net_kernels import (
    Lowering,
    NetKernels,
    bytes_of,
    class_of,
    is_product,
    is_wide,
    product_bytes,
    product_of,
    serial_of,
    settle,
)
from steelyard.deployment.runtime import Precision, Runtime
from steelyard.workload.tensor_counts import operations
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["lower_net"]


def lower_net(
    graph: TensorGraph,
    sizes: Mapping[str, Any],
    runtime: Runtime,
    precision: Precision,
    layout: str = "",
    block: float = 1.0,
) -> NetKernels:
    """The kernels of one pass.

    Args:
        graph: the network.
        sizes: values of its symbols; arrays over scenarios are ``[scenarios]``.
        runtime: what joins ops.
        precision: widths, and whether weights are cast at every pass.
        layout: order of images; default: the runtime's.
        block: channels of an image lie in memory in whole groups of so many.
    """
    given = {**graph.symbols, **sizes}
    tile = (*runtime.tile, *((1.0,) if runtime.channels else ()))
    lowering = Lowering(graph, given, precision, tile, layout or runtime.layout, block)
    if runtime.fuses == "nothing":
        for node in graph.nodes:
            _eager(lowering, node, runtime)
    else:
        _fused(lowering, runtime)
    return lowering.kernels()


def _casts(lowering: Lowering, node: Node) -> None:
    """What autocast copies before a product: operands that are 32 bits wide."""
    graph, p = lowering.graph, lowering.precision
    for i in node.inputs:
        n = graph.elements(i, lowering.sizes)
        if graph.tensors[graph.storage(i)].role in ("weight", "buffer"):
            lowering.put(node, "weight_cast", 0.0, 0.0, n * 4, n * p.bits / 8, 0.0)
        elif graph.tensors[i].dtype == "f32" and lowering.bits(i) > p.bits:
            lowering.put(node, "cast", 0.0, 0.0, n * 4, n * p.bits / 8, 0.0)


def _in_parts(lowering: Lowering, node: Node, runtime: Runtime) -> bool:
    """Whether a node is attention that the runtime has no one kernel for."""
    if node.op != "attention" or runtime.attention == "fused":
        return False
    return runtime.attention == "parts" or len(lowering.graph.tensors[node.inputs[0]].shape) != 4


def _eager(lowering: Lowering, node: Node, runtime: Runtime) -> None:
    """A kernel for a node, and those that eager execution adds to it."""
    graph, sizes = lowering.graph, lowering.sizes
    if lowering.precision.cast and is_product(node):
        _casts(lowering, node)
    settle(lowering, node)
    if node.kind.group == "view":
        return
    if _in_parts(lowering, node, runtime):
        _attention_parts(lowering, node)
        return
    if is_product(node):
        cls, flops, padded = product_of(graph, node, sizes, lowering.tile)
        cls = "wide" if is_wide(lowering, node) else cls
        read, written, weights = product_bytes(lowering, node)
        lowering.put(node, cls, flops, padded, read, written, weights, serial_of(graph, node, sizes, lowering.layout))
        if node.op == "conv" and len(node.inputs) > 2:  # the bias is added by a kernel of its own
            lowering.put(node, "pointwise", written, written, written, written, 0.0)
        return
    read, written, weights = bytes_of(lowering, node)
    flops = operations(graph, node, sizes)
    lowering.put(
        node, class_of(node), flops, flops, read, written, weights, serial_of(graph, node, sizes, lowering.layout)
    )


def _fused(lowering: Lowering, runtime: Runtime) -> None:
    """Kernels of a runtime that joins ops."""
    graph, sizes = lowering.graph, lowering.sizes
    groups = _groups(graph, runtime)
    for members in groups:
        extern = [n for n in members if _stands(n)]
        for node in members:
            settle(lowering, node)
        real = [n for n in members if n.kind.group not in ("view", "fill")]
        if not real:
            continue
        if extern:
            node = extern[0]
            if _in_parts(lowering, node, runtime):
                _attention_parts(lowering, node)
                continue
            if is_product(node):
                if lowering.precision.cast and runtime.fuses == "pointwise":
                    _weight_casts(lowering, node)
                cls, flops, padded = product_of(graph, node, sizes, lowering.tile)
                read, written, weights = product_bytes(lowering, node)
            else:
                cls, flops, padded = "sort", 0.0, 0.0
                read, written, weights = bytes_of(lowering, node)
            if len(real) > 1:
                outside, written, more = _borders(lowering, real)
                read, weights = read + outside, weights + more
            lowering.put(
                node, cls, flops, padded, read, written, weights, serial_of(graph, node, sizes, lowering.layout)
            )
            continue
        outside, written, weights = _borders(lowering, real)
        work: Any = sum((_work(lowering, n, runtime) for n in real), 0.0)
        kinds = [n.kind.group for n in real]
        cls = "fused" if len(real) > 1 and all(k in ("pointwise", "move", "norm") for k in kinds) else _strongest(real)
        lowering.put(real[0], cls, work, work, outside, written, weights)


def _work(lowering: Lowering, node: Node, runtime: Runtime) -> Any:
    """Operations of an op that is no product; a function of one number of 8 bits is a table of its values."""
    work = operations(lowering.graph, node, lowering.sizes)
    planned = runtime.terms == "groups" and lowering.precision.bits <= 8
    if not (planned and node.kind.group == "pointwise" and len(node.inputs) == 1):
        return work
    return np.minimum(work, lowering.graph.elements(node.outputs[0], lowering.sizes))


def _attention_parts(lowering: Lowering, node: Node) -> None:
    """Attention without a kernel of its own: scores, their softmax and what they weigh, each through memory."""
    graph, sizes = lowering.graph, lowering.sizes
    q, k, v = (graph.shape(i, sizes) for i in node.inputs[:3])
    rows = prod(q[:-1], start=1.0)
    scores = rows * k[-2] * lowering.precision.bits / 8
    sides = [graph.elements(i, sizes) * lowering.bits(i) / 8 for i in (*node.inputs[:3], node.outputs[0])]
    for depth, read, written in ((q[-1], sides[0] + sides[1], scores), (v[-1], scores + sides[2], sides[3])):
        work = 2.0 * rows * k[-2] * depth
        lowering.put(node, "matmul", work, work, read, written, 0.0)
        if written is scores:
            work = 5.0 * rows * k[-2]
            lowering.put(node, "softmax", work, work, scores, scores, 0.0)


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
    classes = {class_of(n) for n in members}
    found = next(c for c in order if c in classes)
    return "fused" if found in ("batch_norm", "pointwise", "cast", "copy") else found


def _weight_casts(lowering: Lowering, node: Node) -> None:
    graph = lowering.graph
    for i in node.inputs:
        if graph.tensors[graph.storage(i)].role == "weight":
            n = graph.elements(i, lowering.sizes)
            lowering.put(node, "weight_cast", 0.0, 0.0, n * 4, n * lowering.precision.bits / 8, 0.0)


def _borders(lowering: Lowering, members: Sequence[Node]) -> tuple[Any, Any, Any]:
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
        if is_product(node):
            continue
        counts, _ = lowering.moved(node)
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
                written = written + graph.elements(o, lowering.sizes) * lowering.laid(o) * bits / 8
    return sum(read.values(), 0.0), written, weights


def _fed(users: Sequence[Node], inside: set[int]) -> bool:
    """Whether only products read a tensor outside its kernel."""
    return all(is_product(u) for u in users if id(u) not in inside)


def _stands(node: Node) -> bool:
    """Whether an op is a kernel of its own, which others can only follow: a product, a recurrence, a sort."""
    return is_product(node) or node.kind.group == "sort"


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
        extern = _stands(node)
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
                if a in holds and not (epilogue and _joins(node, runtime)):
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


def _joins(node: Node, runtime: Runtime) -> bool:
    """Whether an op can be the epilogue of a product: pointwise, a batch normalisation, or a view; only those that the
    runtime names where it names any."""
    if runtime.joins and node.kind.group == "pointwise" and node.op != "cast":
        return node.op in runtime.joins
    return node.kind.group in ("pointwise", "view") or node.op in ("batch_norm", "cast")
