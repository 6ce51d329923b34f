"""Channels of a network that can be left out: which axes must stay equal, and a graph in which their number is open.

Axes of tensors that must have one extent (what a convolution puts out, its normalisation, a shortcut that is added,
what the next one takes in) are one group. A group whose channels some product makes, and that no op mixes with others
(a view, a concatenation, a grouped convolution), can be pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steelyard.workload.extent import Extent
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["ChannelGroup", "with_open_channels"]

_Axis = tuple[int, int]
"""A tensor and the number of one of its axes."""
#: Channels of a group at least that something is left out of.
LEAST = 8


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are kept or left out together."""

    symbol: str
    """Of their number in the graph."""
    channels: int
    makers: tuple[Node, ...]
    """Products that put them out."""


class _Axes:
    """Axes joined, and those that must stay as they are."""

    def __init__(self, graph: TensorGraph) -> None:
        self.graph = graph
        self.parent: dict[_Axis, _Axis] = {}
        self.fixed: list[_Axis] = []
        self.made: dict[_Axis, list[Node]] = {}

    def root(self, axis: _Axis) -> _Axis:
        while (above := self.parent.setdefault(axis, axis)) != axis:
            self.parent[axis] = axis = self.parent.setdefault(above, above)
        return axis

    def join(self, a: _Axis, b: _Axis) -> None:
        self.parent[self.root(a)] = self.root(b)

    def fix(self, tensor: int) -> None:
        self.fixed += [(tensor, i) for i in range(len(self.graph.tensors[tensor].shape))]

    def shape(self, tensor: int) -> tuple[int | Extent, ...]:
        return self.graph.tensors[tensor].shape


def with_open_channels(graph: TensorGraph) -> tuple[TensorGraph, list[ChannelGroup]]:
    """The graph with a symbol for the number of channels of every group that can be pruned, and those groups."""
    axes = _Axes(graph)
    for i, tensor in enumerate(graph.tensors):
        if tensor.role == "input":
            axes.fix(i)
    for node in graph.nodes:
        _read(axes, node)
    for i in graph.outputs:
        axes.fix(i)
    fixed = {axes.root(a) for a in axes.fixed}
    made: dict[_Axis, list[Node]] = {}
    for axis, nodes in axes.made.items():
        made.setdefault(axes.root(axis), []).extend(nodes)
    groups: list[ChannelGroup] = []
    symbols: dict[_Axis, str] = {}
    for axis, nodes in made.items():
        extent = axes.shape(axis[0])[axis[1]]
        if axis in fixed or not isinstance(extent, int) or extent < LEAST:
            continue
        symbols[axis] = f"channels{len(groups)}"
        order = sorted({id(n): n for n in nodes}.values(), key=graph.nodes.index)
        groups.append(ChannelGroup(symbols[axis], extent, tuple(order)))
    shapes = {i: list(t.shape) for i, t in enumerate(graph.tensors)}
    for number, place in list(axes.parent):
        name = symbols.get(axes.root((number, place)))
        if name is not None:
            shapes[number][place] = Extent((((name,), 1),))
    tensors = tuple(replace(t, shape=tuple(shapes[i])) for i, t in enumerate(graph.tensors))
    usual = {g.symbol: g.channels for g in groups}
    return replace(graph, tensors=tensors, symbols={**graph.symbols, **usual}), groups


def _read(axes: _Axes, node: Node) -> None:
    """What one op says of its axes."""
    group, out = node.kind.group, node.outputs[0] if node.outputs else -1
    if node.op == "conv" and not node.facts.get("transposed"):
        _conv(axes, node, out)
    elif node.op == "linear" and "depth" not in node.facts:
        x, w = node.inputs[:2]
        axes.join((x, len(axes.shape(x)) - 1), (w, 1))
        _put_out(axes, node, out, len(axes.shape(out)) - 1)
        _aligned(axes, x, out, range(len(axes.shape(x)) - 1))
    elif node.op == "batch_norm":
        _same(axes, node.inputs[0], out)
        for i in (*node.inputs[1:], *node.outputs[1:]):
            if len(axes.shape(i)) == 1:
                axes.join((i, 0), (out, 1))
    elif group == "pointwise" or node.op in ("layer_norm", "rms_norm", "softmax", "cast"):
        for i in node.inputs:
            _trailing(axes, i, out)
    elif group in ("pool", "reduce", "resize") and len(node.inputs) == 1 and _leading(axes, node.inputs[0], out):
        axes.join((node.inputs[0], 1), (out, 1))
    elif group == "view" and len(node.inputs) == 1 and len(node.outputs) == 1:
        _view(axes, node.inputs[0], out)
    else:
        for i in (*node.inputs, *node.outputs):
            axes.fix(i)


def _conv(axes: _Axes, node: Node, out: int) -> None:
    x, w = node.inputs[:2]
    groups = node.facts.get("groups", 1)
    if groups == 1:
        axes.join((x, 1), (w, 1))
        _put_out(axes, node, out, 1)
    elif axes.shape(w)[1] == 1 and groups == axes.shape(x)[1] == axes.shape(w)[0]:
        for other in ((w, 0), (out, 1)):
            axes.join((x, 1), other)
        for i in node.inputs[2:]:
            axes.join((i, 0), (x, 1))
    else:
        for i in (x, w, out):
            axes.fix(i)


def _put_out(axes: _Axes, node: Node, out: int, axis: int) -> None:
    """The columns of a product's weights are what it puts out."""
    axes.join((out, axis), (node.inputs[1], 0))
    axes.made.setdefault((out, axis), []).append(node)
    for i in node.inputs[2:]:
        axes.join((i, 0), (out, axis))


def _aligned(axes: _Axes, a: int, b: int, which: Sequence[int]) -> None:
    for i in which:
        axes.join((a, i), (b, i))


def _same(axes: _Axes, a: int, b: int) -> None:
    _aligned(axes, a, b, range(len(axes.shape(b))))


def _trailing(axes: _Axes, i: int, out: int) -> None:
    """Axes of an operand that is spread over a result, the last ones over the last ones."""
    mine, theirs = axes.shape(i), axes.shape(out)
    for back in range(1, min(len(mine), len(theirs)) + 1):
        if mine[-back] == theirs[-back] and mine[-back] != 1:
            axes.join((i, len(mine) - back), (out, len(theirs) - back))


def _leading(axes: _Axes, i: int, out: int) -> bool:
    """Whether an op leaves images and channels as they are."""
    mine, theirs = axes.shape(i), axes.shape(out)
    return len(mine) > 2 and len(theirs) > 1 and mine[:2] == theirs[:2]


def _view(axes: _Axes, i: int, out: int) -> None:
    """A view that only drops or adds axes of extent 1 keeps the others; any other mixes them."""
    mine, theirs = axes.shape(i), axes.shape(out)
    a, b = ([k for k, e in enumerate(s) if e != 1] for s in (mine, theirs))
    if [mine[k] for k in a] != [theirs[k] for k in b]:
        axes.fix(i)
        axes.fix(out)
        return
    for x, y in zip(a, b, strict=True):
        axes.join((i, x), (out, y))
