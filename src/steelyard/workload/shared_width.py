"""A network's layers cut by their width over several devices (tensor parallelism, arXiv:1909.08053).

A pair of linear layers with heads, gates and activations between them is cut: of the first a device has a part of the
columns, of the second the same part of the rows, and the sums of all devices are added (an all-reduce). Which layers
make such pairs is read off the graph: what the first puts out reaches linear layers alone, without a normalisation over
its whole width. What lies outside of pairs (normalisations, residuals, modulations) is on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from steelyard.workload.extent import Extent, at, extent
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["SHARE", "cut_by_width"]

#: The symbol of a device's share of the width.
SHARE = "share"


def cut_by_width(graph: TensorGraph, devices: int) -> tuple[TensorGraph, tuple[int, ...]]:
    """The graph of one of several devices, and the tensors that are summed over all.

    Args:
        graph: the network.
        devices: that share its width; the graph has their share as the symbol :data:`SHARE`, 1 where it is not set.
    """
    readers = graph.users()
    cut: set[int] = set()  # tensors
    columns: set[int] = set()
    rows: set[int] = set()
    for i, node in enumerate(graph.nodes):
        if node.op != "linear" or i in rows or i in columns or not _of_tokens(graph, node.inputs[0]):
            continue
        found = _reached(graph, readers, node)
        if found is None:
            continue
        passed, ends = found
        columns.add(i)
        cut |= passed
        rows |= ends
    rows -= columns
    tensors, nodes = list(graph.tensors), []
    for t in cut:
        tensors[t] = replace(tensors[t], shape=_part(tensors[t].shape))
    for i, node in enumerate(graph.nodes):
        if i in columns or i in rows:
            for j in node.inputs[1:]:
                if tensors[j].role == "weight" and (i in columns or j == node.inputs[1]):
                    tensors[j] = Tensor(_part(graph.tensors[j].shape), tensors[j].dtype, "weight")
            facts = {**node.facts, "depth": _depth(graph, node) / devices} if i in rows else node.facts
            node = replace(node, facts=facts)
        nodes.append(node)
    made = replace(graph, nodes=tuple(nodes), tensors=tuple(tensors), symbols={**graph.symbols, SHARE: 1})
    return made, tuple(graph.nodes[i].outputs[0] for i in sorted(rows))


def _part(shape: tuple[int | Extent, ...]) -> tuple[int | Extent, ...]:
    """The shape with its first extent times the share: the axes stay as many."""
    first = shape[0].terms if isinstance(shape[0], Extent) else (((), shape[0]),)
    return (extent({tuple(sorted((*m, SHARE))): c for m, c in first}), *shape[1:])


def _depth(graph: TensorGraph, node: Node) -> float:
    return float(node.facts.get("depth", at(graph.tensors[node.inputs[0]].shape[-1], graph.symbols)))


def _of_tokens(graph: TensorGraph, tensor: int) -> bool:
    """Whether a tensor has a row for each of many tokens."""
    *rows, _ = (at(d, graph.symbols) for d in graph.tensors[tensor].shape)
    return bool(prod(rows[1:], start=1) > 1)


#: Groups of ops that keep what lies beside each other in the width apart.
_APART = ("pointwise", "view", "move")


def _reached(graph: TensorGraph, readers: Mapping[int, Sequence[int]], first: Node) -> tuple[set[int], set[int]] | None:
    """Tensors between a linear layer and those that read what it puts out, and those; None where it is no pair."""
    width = at(graph.tensors[first.outputs[0]].shape[-1], graph.symbols)
    passed, ends, ahead = set[int](), set[int](), [first.outputs[0]]
    while ahead:
        t = ahead.pop()
        if t in passed:
            continue
        passed.add(t)
        if t in graph.outputs:
            return None
        for i in readers.get(t, ()):
            node = graph.nodes[i]
            if node.op == "linear" and node.inputs[0] == t:
                ends.add(i)
                continue
            if node.op == "attention" or node.kind.group in _APART or node.op in ("concat", "layer_norm", "rms_norm"):
                pass
            elif node.kind.group != "reduce":
                return None
            over = node.op in ("layer_norm", "rms_norm") or node.kind.group == "reduce"
            if over and at(graph.tensors[t].shape[-1], graph.symbols) >= width:
                return None  # over the whole width
            ahead += list(node.outputs)
    return (passed, ends) if ends else None
