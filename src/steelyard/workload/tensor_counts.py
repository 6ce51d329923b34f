"""What a node of a network computes and touches: multiply-accumulates, operations, elements read and written.

=============  ==========================================================================================
convolution    outputs x inputs per group x kernel points; transposed: inputs x outputs per group x points
linear         outputs x depth
matrix product outputs x depth, the last extent of the first operand
attention      query rows x keys x (query width + value width); a causal mask halves it in cost, not here
recurrence     frames x directions x gates x hidden x (inputs + hidden), over layers
=============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["macs", "norm_macs", "operations", "touched"]


def macs(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> Any:
    """Multiply-accumulates of a node; 0 where it is no product."""
    match node.op:
        case "conv":
            weight = graph.shape(node.inputs[1], sizes)
            rows = node.inputs[0] if node.facts.get("transposed") else node.outputs[0]
            return graph.elements(rows, sizes) * prod(weight[1:], start=1.0)
        case "linear" | "matmul":
            return graph.elements(node.outputs[0], sizes) * node.facts.get(
                "depth", graph.shape(node.inputs[0], sizes)[-1]
            )
        case "attention":
            q, k, v = (graph.shape(i, sizes) for i in node.inputs[:3])
            return prod(q[:-1], start=1.0) * k[-2] * (q[-1] + v[-1])
        case "recurrent":
            return _recurrent_macs(graph, node, sizes)
    return 0.0


def _recurrent_macs(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> Any:
    """Of all layers and directions: each gate multiplies the input and the state of a frame."""
    facts = node.facts
    x = graph.shape(node.inputs[0], sizes)
    frames, width, hidden = prod(x[:-1], start=1.0), x[-1], facts["hidden"]
    total: Any = 0.0
    for _ in range(facts["layers"]):
        total = total + frames * facts["directions"] * facts["gates"] * hidden * (width + hidden)
        width = hidden * facts["directions"]
    return total


def norm_macs(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> Any:
    """What counters of the fvcore kind add for a normalisation: 2 per element of a batch's, 5 of others."""
    if node.op == "batch_norm":
        return 2.0 * graph.elements(node.inputs[0], sizes)
    return 5.0 * graph.elements(node.inputs[0], sizes) if node.op in ("layer_norm", "group_norm") else 0.0


def touched(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Elements a node reads of each input and writes of each output.

    Views touch nothing; gathers read as many elements as they write, and their indices; a convolution or pool whose
    stride is beyond its kernel skips rows; scatters write what they read of their source.
    """
    group = node.kind.group
    if group == "view":
        return [0.0 for _ in node.inputs], [0.0 for _ in node.outputs]
    read = [graph.elements(i, sizes) for i in node.inputs]
    written = [graph.elements(o, sizes) for o in node.outputs]
    if group == "fill":
        return [0.0 for _ in read], written
    if group == "gather":
        visited = node.facts.get("visited", (written[0] if written else 0.0) * node.facts.get("rows_per_bag", 1))
        return [visited, *read[1:]], written
    if group == "scatter" and graph.storage(node.outputs[0]) == graph.storage(node.inputs[0]):
        return [0.0, *read[1:]], [read[-1], *written[1:]]
    if node.op == "conv" and not node.facts.get("transposed"):
        skipped = prod(
            (min(1.0, k / s) for k, s in zip(node.facts["kernel"], node.facts["stride"], strict=False)), start=1.0
        )
        read[0] = read[0] * skipped
    return read, written


def operations(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> Any:
    """Arithmetic operations of a node: 2 per multiply-accumulate, else what its row costs per element touched most."""
    kind = node.kind
    if kind.group in ("product", "recurrent"):
        return 2.0 * macs(graph, node, sizes)
    read, written = touched(graph, node, sizes)
    window = prod(node.facts.get("kernel", ()), start=1.0) if kind.group == "pool" else 1.0
    if window > 1:
        return kind.cost * window * sum(written[:1])
    larger: Any = 0.0
    for n in (*read, *written):
        larger = np.maximum(larger, n)
    return kind.cost * larger * node.facts.get("state", 1)  # a scan: of each number of its state
