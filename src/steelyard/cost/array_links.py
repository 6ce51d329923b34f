"""Networks on chip: the links between a memory and the arrays, multipliers or chiplets that it serves, in closed form.

A value goes from where the network begins to ``m`` of its ``N`` nodes, or a sum comes back from them::

    bus     N links whatever m is; one value at a time
    mesh    X x Y, X <= Y, entered at ports in the middle of equal parts of the shorter edge:
            to one      1 + (Y - 1) / 2 + (s - 1 / s) / 4, s = X / ports
            at ports of all nodes, between any two: (X - 1 / X + Y - 1 / Y) / 3
            to m        that to one of them, and m - 1 links on to the others; without multicast m times to one
    tree    log2 N to one; log2(N / m) + 2 (m - 1) to m that lie beside each other

    energy  bytes x links x energy of a link
    time    bytes / bytes a second of a link x the most of
            1 / ports (without multicast m / ports): what enters       m / N: what each node takes in
            (1 - 2^-m) / 2 X: what crosses the middle of a mesh one way

Nodes that want a value lie anywhere; contention beyond these bounds is not seen.
Bytes are those that the loops of a layer move (:mod:`steelyard.cost.array_mapping`); how many nodes want the same value
follows from how the layer is spread over them. Source: W. Dally and B. Towles, Principles and practices of
interconnection networks, 2004, chapters 3 and 5; Y.-H. Chen et al., Eyeriss v2, JETCAS 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_mapping import DIMS, HAS
from steelyard.machine.component import Compute, Memory

__all__ = ["bisection_bytes_per_s", "links_of", "mesh_sides", "receivers"]

Floats = NDArray[np.float64]


def mesh_sides(nodes: float) -> tuple[float, float]:
    """Shorter and longer side of a mesh: the nearest to a square that is full, else one that is not."""
    for side in range(int(np.sqrt(nodes)), 0, -1):
        if nodes % side == 0 and nodes / side <= 2 * side:
            return float(side), nodes / side
    side = int(np.sqrt(nodes))
    return float(side), float(np.ceil(nodes / side))


def bisection_bytes_per_s(nodes: float, link_bytes_per_s: float) -> float:
    """Bytes a second through the middle of a mesh, both ways: its shorter side's links."""
    return 2.0 * mesh_sides(nodes)[0] * link_bytes_per_s


def _to_one(network: str, nodes: float, ports: float) -> float:
    """Links from a port to a node, on average."""
    if network == "bus":
        return nodes
    if network == "tree":
        return float(np.log2(max(nodes, 2.0)))
    across, along = mesh_sides(nodes)
    if ports >= nodes:
        return float(max(1.0, (across - 1.0 / across + along - 1.0 / along) / 3.0))
    share = max(1.0, across / ports)
    return float(1.0 + (along - 1.0) / 2.0 + (share - 1.0 / share) / 4.0)


def _links(memory: Memory, wanted: Any) -> Any:
    """Links that a value takes to so many nodes."""
    one = _to_one(memory.network, memory.nodes, memory.ports)
    if memory.network == "bus":
        return np.full(np.shape(wanted), one)
    if not memory.multicast:
        return one * wanted
    if memory.network == "tree":
        return np.maximum(1.0, one - np.log2(wanted)) + 2.0 * (wanted - 1.0)
    return one + wanted - 1.0


def _entries(memory: Memory, wanted: Any) -> Any:
    """Time of a value to so many nodes over that of its bytes on one link."""
    once = memory.multicast or memory.network == "bus"
    enters = np.where(once, 1.0, wanted) / memory.ports
    if memory.network == "bus":
        return enters
    most = np.maximum(enters, wanted / memory.nodes)
    if memory.network == "mesh":
        most = np.maximum(most, (1.0 - 0.5**wanted) / bisection_bytes_per_s(memory.nodes, 1.0))
    return most


def receivers(ways: Floats, engine: Compute, nodes: float) -> Floats:
    """Nodes that want each weight and input, or send to each output, ``[ways, 3]``.

    A node is a multiplier, or an array with its multipliers, which outputs fill along columns and other loops along
    rows first; nodes take what is beyond.
    """
    inside = np.ones_like(ways)
    if nodes < engine.multipliers:
        rows, columns = np.full(len(ways), engine.rows * engine.depth), np.full(len(ways), engine.columns)
        inside[:, 1] = np.minimum(ways[:, 1], columns)
        for i in (DIMS.index(d) for d in "crspqbg"):
            inside[:, i] = np.minimum(ways[:, i], np.maximum(1.0, np.floor(rows)))
            rows = rows / inside[:, i]
    beyond = np.maximum(1.0, ways / inside)
    return np.stack([np.minimum(nodes, beyond[:, ~has].prod(axis=1)) for has in HAS], axis=1)


def links_of(path: tuple[Memory, ...], ways: Floats, engine: Compute) -> Floats:
    """Links of a byte of weights, inputs and outputs that leaves each level, and its time over that on one link.

    ``[ways, 6 levels]``; ``[ways, 0]`` where no level has a network.
    """
    if not any(memory.network for memory in path):
        return np.zeros((len(ways), 0))
    found = np.zeros((len(ways), len(path), 2, 3))
    for v, memory in enumerate(path):
        if memory.network:
            wanted = receivers(ways, engine, memory.nodes)
            found[:, v, 0] = _links(memory, wanted)
            found[:, v, 1] = _entries(memory, wanted)
    return found.reshape(len(ways), -1)
