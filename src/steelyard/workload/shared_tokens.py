"""A picture's tokens on several devices: the part of a network that one of them runs, and what they exchange.

Rows of the latent picture are cut; what has no rows (text beside them, weights) is on every device. Attention of rows
to themselves needs keys of the others: either devices exchange tokens for heads around it, so that each attends to all
tokens with a part of the heads (Ulysses, arXiv:2309.14509), or keys and values go around a ring of devices, each of
which attends to one part after another (Ring Attention, arXiv:2310.01889), or both (USP, arXiv:2405.07719).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from steelyard.workload.extent import Extent, at, extent
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["PATCHES", "ROWS", "SharedTokens", "gathered", "self_attentions", "shared_tokens"]

#: The symbol of keys: patches that a device attends to, its own included.
PATCHES = "patches"
#: The symbol of rows that are cut.
ROWS = "rows"


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """What devices that share the tokens of an item exchange in a run."""

    heads: int
    """Devices that exchange tokens for heads."""
    ring: int
    """Devices that pass keys and values around."""
    attentions: int
    """Attentions of the picture's tokens to themselves."""
    elements: float
    """Of queries on a device, for an item: as many of keys, values and answers."""
    borders: int
    """Convolutions that need rows of the neighbours."""


def self_attentions(graph: TensorGraph) -> list[Node]:
    """Attention of the rows of a picture to themselves: queries and keys of one open number."""
    return [
        n
        for n in graph.nodes
        if n.op == "attention"
        and isinstance(graph.tensors[n.inputs[0]].shape[-2], Extent)
        and graph.tensors[n.inputs[0]].shape[-2] == graph.tensors[n.inputs[1]].shape[-2]
    ]


def gathered(graph: TensorGraph) -> TensorGraph:
    """The graph whose self-attention has keys and values of several patches."""
    tensors, chosen = list(graph.tensors), {id(n) for n in self_attentions(graph)}
    nodes = []
    for node in graph.nodes:
        if id(node) in chosen:
            wide = []
            for i in node.inputs[1:3]:
                *head, rows, width = tensors[i].shape
                tensors.append(Tensor((*head, _of_patches(rows), width), tensors[i].dtype))
                wide.append(len(tensors) - 1)
            node = replace(node, inputs=(node.inputs[0], *wide, *node.inputs[3:]))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tuple(tensors), symbols={**graph.symbols, PATCHES: 1})


def _of_patches(rows: int | Extent) -> int | Extent:
    """Rows times patches; what is no part of the picture (text beside it) as it is."""
    terms = rows.terms if isinstance(rows, Extent) else (((), rows),)
    return extent({(tuple(sorted((*m, PATCHES))) if m else m): c for m, c in terms})


def shared_tokens(graph: TensorGraph, sizes: Mapping[str, Any], heads: int, ring: int) -> SharedTokens:
    """What ``heads x ring`` devices exchange in a run.

    Args:
        graph: the network.
        sizes: those of one device.
        heads: devices that exchange tokens for heads.
        ring: devices that pass keys and values around.
    """
    mixing = [n.inputs[0] for n in self_attentions(graph)] + _over_tokens(graph)
    given = {**graph.symbols, **sizes, "batch": 1}
    of_rows = sum(_of(graph, i, given) - _of(graph, i, {**given, ROWS: 0}) for i in mixing)
    borders = sum(
        n.op == "conv" and max(n.facts["kernel"], default=1) > 1 and _cut(graph, n.inputs[0]) for n in graph.nodes
    )
    return SharedTokens(heads, ring, len(mixing), of_rows / max(len(mixing), 1), borders)


def _of(graph: TensorGraph, tensor: int, sizes: Mapping[str, Any]) -> float:
    return float(prod((at(d, sizes) for d in graph.tensors[tensor].shape), start=1.0))


def _cut(graph: TensorGraph, tensor: int) -> bool:
    """Whether a tensor is cut: it has rows."""
    return any(_has_rows(d) for d in graph.tensors[tensor].shape)


def _has_rows(size: int | Extent) -> bool:
    return isinstance(size, Extent) and any(ROWS in m for m, _ in size.terms)


def _over_tokens(graph: TensorGraph) -> list[int]:
    """First operands of products that sum over tokens, as linear attention's."""
    return [n.inputs[0] for n in graph.nodes if n.op == "matmul" and _has_rows(graph.tensors[n.inputs[0]].shape[-1])]
