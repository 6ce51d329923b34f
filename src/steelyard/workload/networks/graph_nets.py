"""Networks over graphs: GCN (Kipf 2017), GraphSAGE (Hamilton 2017), GAT (Veličković 2018), GIN (Xu 2019).

Sizes are two: nodes and directed edges of a graph; a batch is so many graphs beside each other. What a node hears of
its neighbours is a gather of rows by the edges' starts and a scatter by their ends, as PyTorch Geometric runs it
without a sparse product.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size, plus, times
from steelyard.workload.networks.values import symbol

__all__ = ["Gat", "GraphConv", "GraphIso"]


@dataclass(frozen=True, slots=True)
class _Edges:
    """Nodes and edges of all graphs of a batch, with the numbers of the edges' ends."""

    nodes: Size
    edges: Size
    starts: int
    ends: int

    def gathered(self, net: Builder, x: int, ends: bool = False) -> int:
        """The row of each edge's start, or of its end."""
        return net.node("gather", (x, self.ends if ends else self.starts), (self.edges, *net.shape(x)[1:]))

    def summed(self, net: Builder, x: int) -> int:
        """Sums of the edges' rows at the nodes where they end."""
        return net.node("scatter", (x, self.ends), (self.nodes, *net.shape(x)[1:]))


def _edges(net: Builder, size: tuple[int, ...], *, loops: bool) -> _Edges:
    if len(size) != 2:
        raise InputError("expected nodes and edges of a graph, such as 2708x10556", field="size")
    nodes, edges = (times(symbol("batch"), n) for n in size)
    edges = plus(edges, nodes) if loops else edges
    return _Edges(nodes, edges, net.input((edges,), "i64"), net.input((edges,), "i64"))


@dataclass(frozen=True, slots=True)
class GraphConv:
    """Layers that mix a node with the mean or the weighed sum of its neighbours, and classes of the nodes.

    ``own``: a node has weights of its own beside those of its neighbours (GraphSAGE); otherwise an edge leads from each
    node to itself (GCN).
    """

    inputs: int = 1433
    hidden: int = 16
    classes: int = 7
    depth: int = 2
    normed: bool = False
    own: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``normed``: batch normalisations between."""
        graph = _edges(net, size, loops=not self.own)
        x = net.input((graph.nodes, self.inputs))
        for i in range(self.depth):
            with net.within(f"convs.{i}"):
                width = self.classes if i == self.depth - 1 else self.hidden
                x = self._mean(net, graph, x, width) if self.own else self._sum(net, graph, x, width)
                if i < self.depth - 1:
                    x = net.relu(net.norm(x) if self.normed else x)
        return net.softmax(x)

    def _sum(self, net: Builder, graph: _Edges, x: int, width: int) -> int:
        x = graph.gathered(net, net.linear(x, width, bias=False))
        return net.add(graph.summed(net, net.mul(x, net.input((graph.edges, 1)))), net.weight(width))

    def _mean(self, net: Builder, graph: _Edges, x: int, width: int) -> int:
        near = graph.summed(net, graph.gathered(net, x))
        near = net.binary("div", near, graph.summed(net, net.input((graph.edges, 1))))
        return net.add(net.linear(near, width), net.linear(x, width, bias=False))


@dataclass(frozen=True, slots=True)
class Gat:
    """Layers of attention of each node to its neighbours, heads joined between layers."""

    inputs: int = 1433
    hidden: int = 8
    heads: int = 8
    classes: int = 7
    depth: int = 2

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``hidden``: width of a head."""
        graph = _edges(net, size, loops=True)
        x = net.input((graph.nodes, self.inputs))
        for i in range(self.depth):
            with net.within(f"convs.{i}"):
                last = i == self.depth - 1
                heads, width = (1, self.classes) if last else (self.heads, self.hidden)
                x = self._attend(net, graph, x, heads, width)
                x = x if last else net.act(x, "elu", inplace=False)
        return net.softmax(x)

    def _attend(self, net: Builder, graph: _Edges, x: int, heads: int, width: int) -> int:
        x = net.view(net.linear(x, heads * width, bias=False), graph.nodes, heads, width)
        there, here = (net.node("sum", (net.scale(x, 1, heads, width),), (graph.nodes, heads)) for _ in range(2))
        scores = net.add(graph.gathered(net, there), graph.gathered(net, here, ends=True))
        scores = net.act(scores, "leaky_relu", inplace=False)
        most = graph.gathered(net, graph.summed(net, scores), ends=True)  # the largest at each node
        scores = net.act(net.binary("sub", scores, most), "exp", inplace=False)
        total = graph.gathered(net, graph.summed(net, scores), ends=True)
        shares = net.view(net.binary("div", scores, total), graph.edges, heads, 1)
        x = graph.summed(net, net.mul(graph.gathered(net, x), shares))
        return net.add(net.view(x, graph.nodes, heads * width), net.weight(heads * width))


@dataclass(frozen=True, slots=True)
class GraphIso:
    """Layers of two linear ones over a node and the sum of its neighbours with their edges; one answer for a graph.

    ``atoms`` and ``bonds`` are the rows of the tables of a node's and an edge's features, of which each has
    ``features`` and ``marks``.
    """

    hidden: int = 300
    depth: int = 5
    atoms: int = 173
    features: int = 9
    bonds: int = 13
    marks: int = 3
    classes: int = 1

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        graph, width = _edges(net, size, loops=False), self.hidden
        x = self._looked_up(net, graph.nodes, self.atoms, self.features)
        for i in range(self.depth):
            with net.within(f"convs.{i}"):
                y = net.relu(net.add(graph.gathered(net, x), self._looked_up(net, graph.edges, self.bonds, self.marks)))
                x = net.add(net.scale(x, 1), graph.summed(net, y))
                x = net.linear(net.relu(net.norm(net.linear(x, 2 * width))), width)
                x = net.norm(x) if i == self.depth - 1 else net.relu(net.norm(x))
        graphs = symbol("batch")
        total = net.node("scatter", (x, net.input((graph.nodes,), "i64")), (graphs, width))
        mean = net.binary("div", total, net.input((graphs, 1)))
        return net.linear(mean, self.classes)

    def _looked_up(self, net: Builder, rows: Size, words: int, count: int) -> int:
        """Sums of ``count`` rows of small tables, one table for each feature."""
        table, found = net.weight(words, self.hidden), -1
        for _ in range(count):
            row = net.node("gather", (table, net.input((rows,), "i64")), (rows, self.hidden), dtype=net.dtype)
            found = row if found < 0 else net.add(found, row)
        return found
