"""Fewer tokens from layer to layer: alike ones merged, or those that matter least left out.

``merge`` (ToMe, arXiv:2210.09461): after the attention of every layer ``r`` tokens are joined with those most like
them. Half of the tokens are compared with the other half by one product over the width of a head, the best are
sorted, rows are moved. ``prune`` (DynamicViT, arXiv:2106.02034; EViT, arXiv:2202.07800): at ``stages`` evenly spaced
layers a share ``keep`` of the tokens stays, chosen by scores that attention has anyway; rows are moved.

    n(l + 1) = n(l) - r        or        n(l + 1) = keep n(l) at a stage

A pass over the graph: every extent that is the number of tokens becomes the smaller one behind the layer's first sum,
so work, bytes and memory follow. Of networks whose attention sees all tokens at once (ViT, DeiT): not of windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, graphs_of, with_graphs
from steelyard.units import Quantity
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["TokenReduction"]

_KINDS = ("merge", "prune")


@dataclass(frozen=True)
class TokenReduction(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "token-reduction"
    layer: ClassVar[str] = "architecture"
    paper: ClassVar[Citation] = Citation("Token merging: your ViT but faster", "arXiv:2210.09461")
    effect: ClassVar[str] = "tokens of a vision transformer become fewer from layer to layer"
    costs: ClassVar[str] = "accuracy, as more tokens go"
    first: ClassVar[str] = "kind"

    kind: Annotated[str, "merge or prune"] = "merge"
    merged: Annotated[int, Quantity("1", "tokens merged in every layer", ge=0, le=100_000)] = 8
    keep: Annotated[float, Quantity("1", "share of the tokens that a stage of pruning keeps", gt=0, le=1)] = 0.7
    stages: Annotated[int, Quantity("1", "layers that prune, evenly spaced", ge=1, le=1000)] = 3

    def problems(self) -> list[Problem]:
        """See :class:`Technique`."""
        if self.kind in _KINDS:
            return []
        return [Problem(self.name, f"expected merge or prune, got {self.kind!r:.60}")]

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: tokens are one number throughout, and some are left."""
        for graph in graphs_of(scenario):
            tokens, layers = _tokens(graph)
            if not layers:
                words = "attention over one number of tokens throughout, such as vit_base_patch16_224"
                return [Problem(self.name, f"{scenario.name} has no {words}")]
            if self.kind == "merge" and tokens - self.merged * len(layers) < 2:
                most = (tokens - 2) // len(layers)
                return [Problem(self.name, f"expected at most {most} merged a layer of {tokens} tokens")]
        return []

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`."""
        return with_graphs(scenario, self._fewer)

    def _left(self, tokens: int, layers: int) -> list[int]:
        """Tokens behind each layer."""
        if self.kind == "merge":
            return [max(2, tokens - self.merged * (i + 1)) for i in range(layers)]
        at = {round((i + 1) * layers / (self.stages + 1)) for i in range(self.stages)}
        made = []
        for i in range(layers):
            tokens = max(2, round(tokens * self.keep)) if i in at else tokens
            made.append(tokens)
        return made

    def _fewer(self, graph: TensorGraph) -> TensorGraph:
        tokens, layers = _tokens(graph)
        left = self._left(tokens, len(layers))
        tensors, nodes = list(graph.tensors), list[Node]()
        now = tokens
        of: dict[int, int] = {}
        ends = {end: n for (_, end), n in zip(layers, left, strict=True)}
        for i, node in enumerate(graph.nodes):
            for o in node.outputs:
                t = tensors[o]
                tensors[o] = replace(t, shape=tuple(now if d == tokens else d for d in t.shape))
            nodes.append(replace(node, inputs=tuple(of.get(x, x) for x in node.inputs)))
            if i in ends and ends[i] != now:
                x = node.outputs[0]
                nodes += self._chosen(graph, tensors, x, now, ends[i])
                now, of = ends[i], {**of, x: len(tensors) - 1}
        return replace(graph, nodes=tuple(nodes), tensors=tuple(tensors))

    def _chosen(self, graph: TensorGraph, tensors: list[Tensor], x: int, now: int, left: int) -> Iterator[Node]:
        """What chooses and moves tokens; the last tensor it makes has those that are left."""
        batch, _, width = tensors[x].shape

        def made(*shape: Any, of: int = -1, dtype: str = "") -> int:
            tensors.append(Tensor(shape, dtype or tensors[x].dtype, "activation", of))
            return len(tensors) - 1

        scored = x
        if self.kind == "merge":
            half, head = now // 2, min(64, width) if isinstance(width, int) else 64
            a, b = made(batch, half, head, of=graph.storage(x)), made(batch, head, half, of=graph.storage(x))
            scored = made(batch, half, half)
            best = made(batch, half)
            yield Node("view", (x,), (a,), "merge")
            yield Node("view", (x,), (b,), "merge")
            yield Node("matmul", (a, b), (scored,), "merge")
            yield Node("max", (scored,), (best,), "merge")
            scored = best
        else:
            scored = made(batch, now)
            yield Node("mean", (x,), (scored,), "prune")
        order = made(batch, now, dtype="i64")
        yield Node("sort", (scored,), (order,), self.kind)
        moved = made(batch, left, width)
        yield Node("gather", (x, order), (moved,), self.kind)


def _tokens(graph: TensorGraph) -> tuple[int, list[tuple[int, int]]]:
    """The tokens that all attention sees, and of each layer the nodes of its attention and of the sum behind it."""
    at = [i for i, n in enumerate(graph.nodes) if n.op == "attention"]
    if not at:
        return 0, []
    counts = {graph.tensors[graph.nodes[i].inputs[0]].shape[-2] for i in at}
    tokens = counts.pop()
    if counts or not isinstance(tokens, int) or tokens < 4:
        return 0, []
    layers = []
    for i in at:
        for j in range(i + 1, len(graph.nodes)):
            node = graph.nodes[j]
            shape = graph.tensors[node.outputs[0]].shape
            if node.op == "add" and len(shape) == 3 and shape[1] == tokens:
                layers.append((i, j))
                break
    return (tokens, layers) if len(layers) == len(at) else (0, [])
