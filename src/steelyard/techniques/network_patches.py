"""Patch by patch: the first stage of a convolutional network runs on one part of the image after the other.

Where the map is large its tensors are what memory must hold. The stage up to the smallest map of those that are not
below ``1/until`` of the image is run ``patches x patches`` times, each time for one part of the stage's output; only
that part's tensors are alive beside the output. A window of ``k`` points at stride ``s`` and dilation ``d`` needs rows
``a s - p`` to ``(b - 1) s - p + d (k - 1)`` of its input for rows ``a`` to ``b - 1`` of its output (``p`` rows laid
around): parts overlap, and what lies in the overlap is computed more than once. Peak memory, multiply-accumulates,
bytes and kernels all follow from the graph with the stage repeated.

Papers: MCUNetV2 (arXiv:2110.15352). ``patches`` is what a user chooses; the image is decoded part by part, as a
compressed one can be, so that it is never held whole. Valid for stages of convolutions, pools and pointwise ops: a
stage that gathers over the whole map (squeeze-excite, attention) ends before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, graphs_of, with_graphs
from steelyard.units import Quantity
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph
from steelyard.workload.windows import maps_of, side, window

__all__ = ["PatchInference"]

#: Rows and columns of a tensor: first and one past the last, by axis.
_Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PatchInference(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "patch-inference"
    layer: ClassVar[str] = "memory"
    effect: ClassVar[str] = (
        "the first stage of a convolutional network runs patch by patch: less memory, some work twice"
    )
    paper: ClassVar[Citation] = Citation(
        "MCUNetV2: Memory-efficient patch-based inference for tiny deep learning", "arXiv:2110.15352"
    )
    first: ClassVar[str] = "patches"

    patches: Annotated[int, Quantity("1", "parts of the map along each side", ge=2, le=16)] = 3
    until: Annotated[int, Quantity("1", "how many times smaller than the image the map is where parts end", ge=2)] = 8

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if all(_cut(graph, self.until) is None for graph in graphs_of(scenario)):
            return [Problem(self.name, f"no stage of {scenario.name} looks at parts of its image alone")]
        return []

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        return with_graphs(scenario, self._patched)

    def _patched(self, graph: TensorGraph) -> TensorGraph:
        found = _cut(graph, self.until)
        if found is None:
            return graph
        count, tensor = found
        tensors, nodes = list(graph.tensors), list[Node]()
        for rows in _parts(side(graph, tensor, 0), self.patches):
            for columns in _parts(side(graph, tensor, 1), self.patches):
                nodes += _part(graph, count, tensor, (rows, columns), tensors)
        image = _image(graph)
        tensors[image] = replace(tensors[image], role="constant")  # never whole in memory
        return replace(graph, nodes=(*nodes, *graph.nodes[count:]), tensors=tuple(tensors))


def _image(graph: TensorGraph) -> int:
    """The one image that a network reads; -1: it reads something else, or sides are not known."""
    found = graph.inputs
    shape = graph.tensors[found[0]].shape if len(found) == 1 else ()
    return found[0] if len(shape) == 4 and all(isinstance(d, int) for d in shape[2:]) else -1


def _parts(size: int, count: int) -> list[tuple[int, int]]:
    """So many parts of a side, as equal as whole rows allow."""
    ends = [round(size * i / count) for i in range(count + 1)]
    return [(a, b) for a, b in pairwise(ends) if b > a]


def _cut(graph: TensorGraph, until: int) -> tuple[int, int] | None:
    """A stage of nodes that look at windows alone, and the one map that leaves it: the smallest there is, and of those
    the first."""
    image = _image(graph)
    if image < 0:
        return None
    height = side(graph, image, 0)
    last: dict[int, int] = {graph.storage(o): len(graph) for o in graph.outputs}
    for k, node in enumerate(graph.nodes):
        last |= {graph.storage(i): max(k, last.get(graph.storage(i), 0)) for i in node.inputs}
    alive: dict[int, int] = {}
    best: tuple[int, int] | None = None
    least = float("inf")
    for k, node in enumerate(graph.nodes):
        maps = maps_of(graph, node)
        if maps is None:
            break
        alive[graph.storage(maps[1])] = maps[1]
        alive = {s: o for s, o in alive.items() if last.get(s, -1) > k}
        size = side(graph, maps[1], 0)
        if size * until < height:
            break
        if len(alive) == 1 and last.get(image, -1) <= k and size > 1:
            ((_, left),) = alive.items()
            elements = float(graph.elements(left, {**graph.symbols, "batch": 1}))
            if elements < least:
                best, least = (k + 1, left), elements
    return best


def _part(graph: TensorGraph, count: int, left: int, wanted: _Box, tensors: list[Tensor]) -> Iterator[Node]:
    """The nodes of a stage for one part of the map that leaves it; their tensors are appended."""
    box: dict[int, _Box] = {graph.storage(left): wanted}
    for node in reversed(graph.nodes[:count]):
        maps = maps_of(graph, node)
        assert maps is not None
        out = box.get(graph.storage(maps[1]))
        for i in maps[0] if out is not None else ():
            s = graph.storage(i)
            if s == graph.storage(maps[1]):
                continue  # in place
            needs = _needed(graph, node, i, maps[1], out)  # type: ignore[arg-type]
            box[s] = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(needs, box.get(s, needs), strict=True))
    copies: dict[int, int] = {}

    def copy_of(i: int) -> int:
        t, s = graph.tensors[i], graph.storage(i)
        if t.role not in ("input", "activation") or s not in box or len(t.shape) != 4:
            return i
        if i not in copies:
            whole = graph.storage(left)
            of = whole if s == whole else -1 if t.of < 0 else copy_of(t.of)
            sides = tuple(b - a for a, b in box[s])
            tensors.append(Tensor((*t.shape[:2], *sides), t.dtype, "activation", of))
            copies[i] = len(tensors) - 1
        return copies[i]

    yield Node("fill", (), (copy_of(_image(graph)),), "image")
    for node in graph.nodes[:count]:
        if graph.storage(node.outputs[0]) in box:
            yield replace(node, inputs=tuple(map(copy_of, node.inputs)), outputs=tuple(map(copy_of, node.outputs)))


def _needed(graph: TensorGraph, node: Node, source: int, out: int, wanted: _Box) -> _Box:
    """Rows and columns of an input that a part of the output needs."""
    found = []
    for axis, (first, end) in enumerate(wanted):
        size = side(graph, source, axis)
        step, reach, around = window(graph, node, source, out, axis)
        a, b = first * step - around, (end - 1) * step - around + reach
        found.append((max(min(a, size - 1), 0), min(max(b, 1), size)))
    return tuple(found)
