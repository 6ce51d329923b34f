"""Convolutions as matrix products: the input is copied into rows of windows first, which takes memory and traffic.

``im2col`` copies every window whole: ``out_h out_w k_h k_w c`` elements an image. ``im2win`` keeps windows in order,
row by row of the output, and lets neighbours share columns: ``out_h k_h in_w c`` elements. The copy is written and read
again; it is alive while the product runs. A product that gathers its windows itself, as libraries do, has no copy.

Papers: im2win (Euro-Par 2023). Convolutions of one point, of groups and transposed ones have none. How well the
matrix product itself runs is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem, UnknownName
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, graphs_of, with_graphs
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["ConvLowering"]

_KINDS = ("im2col", "im2win")


@dataclass(frozen=True)
class ConvLowering(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "conv-lowering"
    layer: ClassVar[str] = "kernel"
    effect: ClassVar[str] = "convolutions copy their windows into rows before a matrix product"
    paper: ClassVar[Citation] = Citation("Im2win: an efficient convolution paradigm on GPU", "Euro-Par 2023")
    first: ClassVar[str] = "kind"

    kind: Annotated[str, "im2col or im2win: what is copied"] = "im2col"

    def problems(self) -> list[Problem]:
        """See :class:`Technique`."""
        return [] if self.kind in _KINDS else [Problem(self.name, UnknownName("kind", self.kind, _KINDS).message)]

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if any(_lowered(graph, node) for graph in graphs_of(scenario) for node in graph.nodes):
            return []
        return [Problem(self.name, f"{scenario.name} has no convolution of several points over maps")]

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        return with_graphs(scenario, self._copied)

    def _copied(self, graph: TensorGraph) -> TensorGraph:
        nodes, tensors = list[Node](), list(graph.tensors)
        for node in graph.nodes:
            if _lowered(graph, node):
                image, made = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
                high, wide = node.facts["kernel"]
                row = made.shape[3] * wide if self.kind == "im2col" else image.shape[3]
                shape = (image.shape[0], image.shape[1], made.shape[2], high, row)
                tensors.append(Tensor(shape, image.dtype))
                nodes.append(Node("copy", node.inputs[:1], (len(tensors) - 1,), node.name))
                node = replace(node, inputs=(len(tensors) - 1, *node.inputs[1:]))
            nodes.append(node)
        return replace(graph, nodes=tuple(nodes), tensors=tuple(tensors))


def _lowered(graph: TensorGraph, node: Node) -> bool:
    """Whether a node is a convolution that windows are copied for."""
    if node.op != "conv" or node.facts.get("transposed") or node.facts.get("groups", 1) != 1:
        return False
    sides = (*graph.tensors[node.inputs[0]].shape[2:], *graph.tensors[node.outputs[0]].shape[2:])
    return len(sides) == 4 and all(isinstance(d, int) for d in sides) and tuple(node.facts["kernel"]) != (1, 1)
