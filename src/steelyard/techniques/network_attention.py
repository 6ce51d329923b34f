"""Attention of a network in three kernels: scores, their softmax, their product with the values.

What frameworks ran before fused attention (FlashAttention, arXiv:2205.14135): scores of ``queries x keys`` are written,
read by the softmax, written again and read by the second product,

    bytes = 4 heads queries keys b + those of queries, keys, values and answers

so that the time grows with the bandwidth of memory where a fused kernel computes. A pass over the graph of any network
or pipeline; products and softmax are priced as others of their class, scores lie in memory while they live.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, graphs_of, with_graphs
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["UnfusedAttention", "unfused"]


def unfused(graph: TensorGraph) -> TensorGraph:
    """The graph with its attention taken apart."""
    tensors = list(graph.tensors)
    nodes: list[Node] = []

    def made(*shape: Any, of: int = -1, like: int) -> int:
        tensors.append(Tensor(tuple(shape), tensors[like].dtype, "activation", of))
        return len(tensors) - 1

    for node in graph.nodes:
        if node.op != "attention":
            nodes.append(node)
            continue
        q, k, v = node.inputs[:3]
        *heads, rows, _ = tensors[q].shape
        *_, keys, width = tensors[k].shape
        turned = made(*tensors[k].shape[:-2], width, keys, of=graph.storage(k), like=k)
        scores, weights = (made(*heads, rows, keys, like=q) for _ in range(2))
        nodes += [
            replace(node, op="view", inputs=(k,), outputs=(turned,), facts={}),
            replace(node, op="matmul", inputs=(q, turned), outputs=(scores,), facts={}),
            replace(node, op="softmax", inputs=(scores,), outputs=(weights,), facts={}),
            replace(node, op="matmul", inputs=(weights, v), outputs=node.outputs[:1], facts={}),
        ]
    return replace(graph, nodes=tuple(nodes), tensors=tuple(tensors))


@dataclass(frozen=True)
class UnfusedAttention(NetTechnique):
    """Attention as frameworks ran it before fused kernels."""

    name: ClassVar[str] = "unfused-attention"
    layer: ClassVar[str] = "kernel"
    paper: ClassVar[Citation] = Citation(
        "FlashAttention: fast and memory-efficient exact attention with IO-awareness", "arXiv:2205.14135"
    )
    effect: ClassVar[str] = "scores of attention are written to memory and read again"
    costs: ClassVar[str] = "time and memory; it is the baseline of fused kernels"

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: there is attention to take apart."""
        if any(n.op == "attention" for g in graphs_of(scenario) for n in g.nodes):
            return []
        return [Problem(self.name, f"{scenario.name} has no fused attention")]

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: other graphs."""
        return with_graphs(scenario, unfused)
