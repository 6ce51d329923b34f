"""Layers that an array runs depth first: tile by tile through several layers, maps between them never leave the chip.

A memory that ``fuses`` holds, of every map inside a stack, what the next tile's windows need again, and the tile in
work. For tiles of whole or part rows, with ``h`` the rows of a map that are made when those before row ``R`` of the
stack's output are, and ``l`` the first row that later ones need (both move with ``R`` at the map's own step)::

    h = (h_next - 1) step - around + reach      l = h_next step - around      over all ops that read the map
    lines = (h - l) x columns x channels        beside them (h - l) of the columns of a tile, where rows are cut

so a window of ``k`` rows at step ``s`` leaves ``k - s`` rows, and a map that is added later as many as its branch lags.
Outside move the first input, the last output, and the weights: once where they have room beside the lines, else once a
tile. Which layers form a stack is chosen for the fewest bytes outside, by dynamic programming over the places where
one map alone is alive. Sources: M. Alwani et al., Fused-layer CNN accelerators, MICRO 2016; L. Mei et al., DeFiNES,
HPCA 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

from steelyard.workload.tensor_graph import TensorGraph
from steelyard.workload.windows import maps_of, side, window

__all__ = ["Stack", "lines_of", "stacks_of"]

#: Most parts between places where one map alone is alive that one stack joins.
_LONGEST = 24


@dataclass(frozen=True, slots=True)
class Stack:
    """Nodes ``first`` to ``last - 1`` of a graph, run in ``rows x columns`` tiles of their output."""

    first: int
    last: int
    rows: int
    columns: int
    lines_bytes: float
    """What is held for later tiles."""
    read_bytes: float
    written_bytes: float
    """Of the first input and the last output, of one item."""
    weights_bytes: float
    resident: bool
    """Whether the weights stay on chip beside the lines."""


@dataclass(frozen=True, slots=True)
class _Lag:
    """Maps of a stack with what is held of them, arrays over maps: elements a row and column, and their numbers."""

    channels: Any
    height: Any
    width: Any
    rows: Any
    columns: Any
    working: Any
    """Of each op the pairs of maps that it reads and writes, elements of both."""

    def bytes(self, rows: int, columns: int, each: float) -> tuple[float, float]:
        """Lines, and the most that an op has in work, of tiles."""
        high = np.ceil(self.height / rows)
        lines = np.where(rows > 1, self.rows, 0.0) * self.width
        lines = lines + (np.where(columns > 1, self.columns, 0.0) * (high + self.rows))
        work = self.working / (rows * columns)
        return float((lines * self.channels).sum() * each), float(work.max() * each)


def lines_of(graph: TensorGraph, first: int, last: int, left: int, sizes: Mapping[str, Any]) -> _Lag:
    """What depth-first tiles hold of the maps that nodes ``first`` to ``last - 1`` read, map ``left`` leaving them."""
    ends: dict[int, list[tuple[int, int]]] = {graph.storage(left): [(0, 0), (0, 0)]}
    maps: dict[int, int] = {}
    working = [1.0]
    one = {**sizes, "batch": 1.0}
    for node in reversed(graph.nodes[first:last]):
        found = maps_of(graph, node)
        assert found is not None
        sources, out = found
        done = ends.get(graph.storage(out))
        if done is None:
            continue
        for i in sources:
            s = graph.storage(i)
            if s == graph.storage(out):
                continue
            mine = []
            for axis, (h, _) in enumerate(done):
                step, reach, around = window(graph, node, i, out, axis)
                high, low = (h - 1) * step - around + reach, h * step - around
                before = ends.get(s, [(high, low)] * 2)[axis]
                mine.append((max(high, before[0]), min(low, before[1])))
            ends[s] = mine
            maps[s] = i
            working.append(float(graph.elements(i, one)) + float(graph.elements(out, one)))
    shapes = [graph.shape(i, one) for i in maps.values()]
    channels, height, width = (np.array([float(shape[a]) for shape in shapes]) for a in (1, 2, 3))
    held = [[float(min(max(h - low, 0), side(graph, maps[s], a))) for a, (h, low) in enumerate(ends[s])] for s in maps]
    rows, columns = np.array(held).reshape(-1, 2).T
    return _Lag(channels, height, width, rows, columns, np.array(working))


def stacks_of(
    graph: TensorGraph,
    sizes: Mapping[str, Any],
    starts: set[int],
    room_bytes: float,
    map_bytes: float,
    weight_bytes: float,
    holds_weights: bool,
) -> list[Stack]:
    """The stacks that move the fewest bytes outside, in order; layers that gain nothing are in none.

    Args:
        graph: the network.
        sizes: values of its symbols, numbers; items pass one after the other.
        starts: numbers of nodes that are kernels of their own, at which a stack may begin or end.
        room_bytes: of the memory that holds lines and tiles.
        map_bytes, weight_bytes: of an element of a map, and of a weight.
        holds_weights: whether that memory holds weights besides.
    """
    found: list[Stack] = []
    for run in _runs(graph, starts):
        found += _chosen(graph, run, sizes, room_bytes, map_bytes, weight_bytes, holds_weights)
    return found


def _runs(graph: TensorGraph, starts: set[int]) -> list[list[tuple[int, int]]]:
    """Places where one map alone is alive, as node and map, in stretches of ops that look at windows."""
    last = {graph.storage(o): len(graph.nodes) for o in graph.outputs}
    for k, node in enumerate(graph.nodes):
        last |= {graph.storage(i): max(k, last.get(graph.storage(i), 0)) for i in node.inputs}
    alive = {i: i for i in graph.inputs}
    runs: list[list[tuple[int, int]]] = [[]]
    for k in range(len(graph.nodes) + 1):
        if len(alive) == 1 and (k in starts or k == len(graph.nodes)):
            (only,) = alive.values()
            shape = graph.tensors[only].shape
            if len(shape) == 4 and all(isinstance(d, int) for d in shape[2:]):
                runs[-1].append((k, only))
        if k < len(graph.nodes):
            node = graph.nodes[k]
            if maps_of(graph, node) is None and node.kind.group != "fill":
                runs.append([])
            alive |= {graph.storage(o): o for o in node.outputs}
            alive = {s: i for s, i in alive.items() if last.get(s, -1) > k}
    return [run for run in runs if len(run) > 1]


def _chosen(
    graph: TensorGraph,
    run: list[tuple[int, int]],
    sizes: Mapping[str, Any],
    room: float,
    each: float,
    weight: float,
    holds_weights: bool,
) -> list[Stack]:
    one = {**sizes, "batch": 1.0}
    batch = float(sizes.get("batch", 1.0))
    best: list[tuple[float, list[Stack]]] = [(0.0, [])]
    apart = [_outside(graph, a[0], b[0], one, each) for a, b in pairwise(run)]
    weights = [_weights(graph, a[0], b[0], one) * weight for a, b in pairwise(run)]
    for j in range(1, len(run)):
        moved, stacks = best[j - 1]
        least = (moved + apart[j - 1] * batch + weights[j - 1], stacks)
        for i in range(max(0, j - _LONGEST), j - 1):
            ends = [float(graph.elements(run[k][1], one)) * each for k in (i, j)]
            total = sum(weights[i:j])
            if best[i][0] + batch * sum(ends) + total >= least[0]:
                continue
            stack = _tiled(graph, run[i], run[j], one, room, each, total, ends, holds_weights)
            if stack is None:
                continue
            again = 1.0 if stack.resident else batch * stack.rows * stack.columns
            moved = best[i][0] + batch * sum(ends) + total * again
            if moved < least[0]:
                least = moved, [*best[i][1], stack]
        best.append(least)
    return best[-1][1]


def _tiled(
    graph: TensorGraph,
    begin: tuple[int, int],
    end: tuple[int, int],
    one: Mapping[str, Any],
    room: float,
    each: float,
    weights: float,
    ends: list[float],
    holds_weights: bool,
) -> Stack | None:
    """A stack in the fewest tiles that have room, weights beside them where that is possible; None: there are none."""
    lag = lines_of(graph, begin[0], end[0], end[1], one)
    high, wide = (side(graph, end[1], axis) for axis in (0, 1))
    for resident in (True, False) if holds_weights else (False,):
        left = room - weights if resident else room
        for rows, columns in _tiles(high, wide):
            lines, work = lag.bytes(rows, columns, each)
            if lines + work <= left:
                return Stack(begin[0], end[0], rows, columns, lines, ends[0], ends[1], weights, resident)
    return None


def _tiles(high: int, wide: int) -> list[tuple[int, int]]:
    """Cuts of rows, then of columns of single rows, by halves."""

    def cuts(size: int) -> list[int]:
        return sorted({ceil(size / ceil(size / 2**i)) for i in range(size.bit_length() + 1)})

    return [(rows, 1) for rows in cuts(high)] + [(high, columns) for columns in cuts(wide)[1:]]


def _outside(graph: TensorGraph, first: int, last: int, one: Mapping[str, Any], each: float) -> float:
    """Bytes of maps that products and pools of these nodes read and write, one after the other."""
    total = 0.0
    for node in graph.nodes[first:last]:
        found = maps_of(graph, node)
        if found is not None and (node.op == "conv" or node.kind.group == "pool"):
            total += sum(float(graph.elements(i, one)) for i in (*found[0], found[1])) * each
    return total


def _weights(graph: TensorGraph, first: int, last: int, one: Mapping[str, Any]) -> float:
    """Weights of the products of these nodes."""
    products = (n for n in graph.nodes[first:last] if n.op == "conv")
    return sum(float(graph.elements(n.inputs[1], one)) for n in products)
