"""What ops that look at windows of a map need of it: of convolutions, pools and pointwise ops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["maps_of", "side", "window"]

_LOCAL = ("pointwise", "pool")


def side(graph: TensorGraph, tensor: int, axis: int) -> int:
    """Rows (0) or columns (1) of a map."""
    return int(str(graph.tensors[tensor].shape[2 + axis]))


def maps_of(graph: TensorGraph, node: Node) -> tuple[list[int], int] | None:
    """Maps that a node reads and the one it writes; None: it looks further than a window."""
    shapes = [graph.tensors[i].shape for i in (*node.inputs, *node.outputs)]
    moving = [i for i in node.inputs if graph.tensors[i].role in ("input", "activation")]
    local = node.op in ("conv", "batch_norm", "concat") or node.kind.group in _LOCAL
    out = node.outputs[0]
    if not local or node.facts.get("transposed") or len(graph.tensors[out].shape) != 4:
        return None
    if any(len(graph.tensors[i].shape) != 4 for i in moving) or not all(
        isinstance(d, int) for shape in shapes for d in shape[2:]
    ):
        return None
    widest = graph.tensors[out].shape[2:]
    if node.op != "conv" and node.kind.group != "pool" and any(graph.tensors[i].shape[2:] != widest for i in moving):
        return None  # a number for each channel, made of the whole map
    return moving, out


def window(graph: TensorGraph, node: Node, source: int, out: int, axis: int) -> tuple[int, int, int]:
    """Step, points that a window spans, and points laid around the map, along an axis."""
    size, made = side(graph, source, axis), side(graph, out, axis)
    points, step, apart = (_fact(node.facts, n, axis) for n in ("kernel", "stride", "dilation"))
    if node.kind.group == "pool" and "stride" not in node.facts:
        step = max(round(size / made), 1)
    reach = apart * (points - 1) + 1 if node.op == "conv" or node.kind.group == "pool" else 1
    return step, reach, -(-max((made - 1) * step + reach - size, 0) // 2)


def _fact(facts: Mapping[str, Any], name: str, axis: int) -> int:
    value = facts.get(name, 1)
    return int(value[axis] if isinstance(value, list | tuple) else value)
