"""Networks on a processor core: cycles of the instructions that a library's kernels give it, and the memory they need.

A kernel is loops (:class:`steelyard.deployment.library.Loop`): turns of its innermost one, each of so many
instructions for a block of outputs, pixels and depth; what it copies before, and what it does to each output, input and
weight. Counts are read off the library's source, cycles of an instruction are the core's.

``cycles = CPI (turns x turn + gathered x elements + output x outputs + input x inputs + weight x weights)``, which the
cores of a cluster share. A library whose kernels take no border has an op of its own that lays it around a map
(:attr:`Library.pad`), unless the network was made with borders that the kernels know (``same`` of a convolution).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from steelyard.cost.net_kernels import NetKernels, is_product, product_of
from steelyard.cost.site import Site
from steelyard.deployment.library import Library, Loop
from steelyard.deployment.runtime import Precision, Runtime
from steelyard.errors import InputError
from steelyard.machine.classes import cores
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = [
    "Held",
    "arena_bytes",
    "check_counted",
    "extents",
    "held_over",
    "held_parts",
    "instructions",
    "kernel_cycles",
    "library_of",
    "stored_bytes",
]


def kernel_cycles(
    graph: TensorGraph, kernels: NetKernels, sizes: Mapping[str, Any], site: Site, library: Library
) -> Array:
    """Cycles of each kernel, ``[kernels, scenarios]``.

    Raises:
        InputError: the machine is no core whose instructions are counted.
    """
    if site.engine.core not in cores():
        named = ", ".join(cores())
        raise InputError(f"expected the core of the machine ({named}) to count its cycles", field="compute.core")
    given, core = {**graph.symbols, **sizes}, cores()[site.engine.core]
    found = np.zeros(kernels.flops.shape)
    for i, (name, node) in enumerate(zip(kernels.classes, kernels.nodes, strict=False)):
        loop = _loop_of(library, name, node)
        each = (core.cycles_per_paired if loop.paired else 0.0) or core.cycles_per_instruction
        border = library.pad * _bordered(graph, node, given, library) * core.cycles_per_instruction
        found[i] = each * instructions(graph, node, loop, given) + border
    return found * library.slower / site.engine.units


def library_of(runtime: Runtime) -> Library:
    """The kernels of a runtime whose instructions are counted. Raises :class:`InputError` where it has none."""
    if runtime.library is None:
        raise InputError(f"{runtime.name} has no kernels whose instructions are counted", field="runtime")
    return runtime.library


def check_counted(runtime: Runtime, precision: Precision) -> None:
    """Raises :class:`InputError` where a precision is not that whose kernels were counted."""
    if precision.name != runtime.precision:
        raise InputError(f"kernels of {runtime.name} are counted in {runtime.precision} alone", field="precision")


def instructions(graph: TensorGraph, node: Node, loop: Loop, sizes: Mapping[str, Any]) -> Any:
    """Instructions of the kernel that a node is."""
    outputs = graph.elements(node.outputs[0], sizes)
    inputs = sum(graph.elements(i, sizes) for i in node.inputs if graph.tensors[graph.storage(i)].role in _MOVING)
    if not is_product(node):
        return loop.output * outputs + loop.input * inputs
    rows, columns, depth, groups = extents(graph, node, sizes)
    depthwise = node.op == "conv" and groups > 1 and bool(np.all(columns == 1))
    if depthwise:  # channels are what a turn has several of
        columns, groups = groups, 1.0
    points = prod(node.facts.get("kernel", ()), start=1.0) if loop.by_point else 1.0
    turns = groups * _up(columns, loop.outputs) * _up(rows, loop.pixels) * points * _up(depth / points, loop.depth)
    pixels = rows * groups * depth * (columns if depthwise else 1.0)
    weights = columns * depth * groups
    return (
        turns * loop.turn + loop.gathered * pixels + loop.output * outputs + loop.input * inputs + loop.weight * weights
    )


_MOVING = ("input", "activation")


def _bordered(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], library: Library) -> Any:
    """Elements of the map that an op before a convolution makes of its input and a border; 0: there is no such op."""
    border = node.facts.get("padding", ()) if library.pad and node.op == "conv" else ()
    if not any(border) or node.facts.get("same") or node.facts.get("transposed"):
        return 0.0
    items, channels, *sides = graph.shape(node.inputs[0], sizes)
    return items * channels * prod((a + 2 * p for a, p in zip(sides, border, strict=True)), start=1.0)


def _up(x: Any, by: float) -> Any:
    return np.ceil(np.asarray(x, dtype=np.float64) / by)


def extents(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Pixels, outputs of a pixel, depth of an output, and groups of a product."""
    out = graph.shape(node.outputs[0], sizes)
    if node.op == "conv":
        weight, groups = graph.shape(node.inputs[1], sizes), float(node.facts.get("groups", 1))
        return prod(out, start=1.0) / out[1], out[1] / groups, prod(weight[1:], start=1.0), groups
    _, flops, _ = product_of(graph, node, sizes)
    columns = out[-1]
    rows = prod(out[:-1], start=1.0)
    return rows, columns, flops / 2.0 / rows / columns, 1.0


def _loop_of(library: Library, name: str, node: Node) -> Loop:
    """The first loop made for a class and its window; of what no loop is for, the one without a class."""
    window = tuple(node.facts.get("kernel", ())) if node.op == "conv" else ()
    for loop in library.loops:
        if (not loop.of or name in loop.of) and (not loop.windows or all(k in loop.windows for k in window)):
            return loop
    return Loop()


def stored_bytes(graph: TensorGraph, runtime: Runtime, precision: Precision) -> float:
    """Bytes of flash: weights, what is stored for each output channel (bias, multiplier, shift), and code."""
    library, weights, channels, seen = library_of(runtime), 0.0, 0.0, set[int]()
    for node in graph.nodes:
        owner = graph.storage(node.inputs[1]) if is_product(node) else -1
        if owner < 0 or owner in seen or graph.tensors[owner].role != "weight":
            continue
        seen.add(owner)
        weights += float(graph.elements(owner, graph.symbols)) * precision.stored_bits / 8
        channels += _channels(graph, node)
    steps = sum(_steps(graph, node, runtime) for node in graph.nodes)
    return weights + channels * library.channel_bytes + steps * library.node_bytes + library.code_bytes


def _steps(graph: TensorGraph, node: Node, runtime: Runtime) -> int:
    """Ops of the library that an op is: none where the one before does it, and one that lays its border."""
    return _is_step(node, runtime) + bool(_bordered(graph, node, graph.symbols, library_of(runtime)))


def _channels(graph: TensorGraph, node: Node) -> float:
    out = graph.shape(node.outputs[0], graph.symbols)
    return float(out[1] if node.op == "conv" else out[-1])


def arena_bytes(graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision) -> Array:
    """Most bytes of memory in use at once: tensors, buffers of kernels, and what the library keeps, ``[scenarios]``.

    Ops that the runtime joins write over what they alone read; so do depthwise convolutions where its kernels work in
    place. An output that nothing reads is not made.
    """
    found = _lives(graph, sizes, runtime, precision)
    count = np.broadcast_shapes((1,), *(np.shape(one[0]) for one in found.lives))
    rows = np.array([np.broadcast_to(size, count) for size, _, _ in found.lives])
    if library_of(runtime).planner == "greedy":
        columns, inverse = np.unique(rows, axis=1, return_inverse=True)
        planned = np.array([_greedy(column, found.times).max() for column in columns.T])[inverse.reshape(-1)]
    else:
        planned = np.max([rows[a].sum(axis=0) for a in found.alive()], axis=0)
    return np.asarray(planned + found.beside, dtype=np.float64)


def held_over(
    graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision
) -> tuple[list[str], Array]:
    """Ops of the library in order, and the bytes of memory in use at each: up to the highest place that is taken.

    For one scenario; the most of them is :func:`arena_bytes`.
    """
    found = _lives(graph, sizes, runtime, precision)
    if library_of(runtime).planner == "greedy":
        ends = _greedy(found.one(), found.times)
        held = _of_ops([ends[a].max(initial=0.0) for a in found.alive()])
    else:
        held = found.together()
    return found.names, held + float(np.max(found.beside))


def _of_ops(each: Sequence[float]) -> Array:
    """The larger of the two times of every op."""
    return np.asarray(np.max(np.reshape(each, (-1, 2)), axis=1), dtype=np.float64)


def _own_bytes(graph: TensorGraph, node: Node, runtime: Runtime) -> float:
    """What a library keeps of an op beside its tensors and buffers: of its output channels, and of itself."""
    library = library_of(runtime)
    channels = _channels(graph, node) if is_product(node) else 0.0
    return channels * library.arena_channel_bytes + _steps(graph, node, runtime) * library.arena_node_bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a pass in parts: its peak is the largest of ``tensors``, that of ``buffers``, and all of ``own``."""

    steps: list[str]
    """Module of each op of the library."""
    tensors: Array
    """Bytes alive together at each."""
    modules: list[str]
    """Module of each op of the graph."""
    buffers: Array
    """Bytes beside the tensors that its kernel needs."""
    own: Array
    """Bytes that the library keeps of it."""
    fixed: float
    """What it keeps whatever runs."""


def held_parts(graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision) -> Held:
    """Memory of a pass by module, for one scenario; a planner that leaves gaps needs more (:func:`arena_bytes`)."""
    library, given = library_of(runtime), {**graph.symbols, **sizes}
    found = _lives(graph, sizes, runtime, precision)
    buffers = [float(np.max(_buffers(graph, n, given, library)[0])) * library.buffers_beside for n in graph.nodes]
    steps, modules = [name.partition(",")[0] for name in found.names], [n.name for n in graph.nodes]
    return Held(steps, found.together(), modules, np.array(buffers), np.array(found.own), found.fixed)


@dataclass(frozen=True, slots=True)
class _Lives:
    """What has a place in memory."""

    lives: list[tuple[Any, int, int]]
    """Bytes of what has one for a while, with its first and last time."""
    buffers: Any
    """Bytes of buffers that have memory of their own."""
    own: list[float]
    """Bytes that the library keeps of each op of the graph."""
    fixed: float
    """Bytes of weights that are copied, and what the library keeps whatever runs."""
    names: list[str]
    """Ops in order, two times each."""

    @property
    def beside(self) -> Any:
        """Bytes beside what has a place for a while, ``[scenarios]``."""
        return self.buffers + sum(self.own) + self.fixed

    @property
    def times(self) -> list[tuple[int, int]]:
        """First and last of each."""
        return [(first, last) for _, first, last in self.lives]

    def alive(self) -> list[Any]:
        """Which are, at each time."""
        first, last = np.array(self.times).T
        return [(first <= t) & (t <= last) for t in range(2 * len(self.names))]

    def one(self) -> Array:
        """Bytes of each, of one scenario."""
        return np.array([float(np.max(size)) for size, _, _ in self.lives])

    def together(self) -> Array:
        """Bytes alive together at each op, of one scenario."""
        rows = self.one()
        return _of_ops([rows[a].sum() for a in self.alive()])


def _lives(graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision) -> _Lives:
    """When everything has its place; ops that the runtime joins write over what they alone read.

    An op has two times, since one that works in place has what is the larger of its input and output at both.
    """
    library, sizes = library_of(runtime), {**graph.symbols, **sizes}
    each = [_own_bytes(graph, node, runtime) for node in graph.nodes]
    graph = _joined(graph, runtime)
    first = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = {}
    borders: list[tuple[Any, int, int]] = []
    scratch: list[tuple[Any, int, int]] = []
    names: list[str] = []
    buffers, kept, now = np.zeros(1), 0.0, 0
    for node in graph.nodes:
        own, reads = _is_step(node, runtime), node.inputs
        over = own and node.op == "conv" and _in_place(graph, node, library)
        if np.any(bordered := _bordered(graph, node, sizes, library)):
            last[graph.storage(reads[0])] = now + 1
            borders.append((bordered * precision.bits / 8, now, now + 3))
            names.append(f"{node.name}, its border")
            now, reads = now + 2, reads[1:]
        for t in reads:
            last[graph.storage(t)] = now + (0 if over else 1)
        for t in node.outputs:
            first.setdefault(graph.storage(t), now + (1 if over else 0))
        buffer, copied = _buffers(graph, node, sizes, library)
        kept = max(kept, copied)
        if library.buffers_beside:
            buffers = np.maximum(buffers, buffer)
        elif np.any(buffer):
            scratch.append((buffer, now, now + 1))
        if own:
            names.append(f"{node.name}, {node.op}")
            now += 2
    last |= {graph.storage(o): now for o in graph.outputs}
    alive = [s for s in first if s in last and graph.tensors[s].role in _MOVING]
    made = [(graph.elements(s, sizes) * precision.bits / 8, first[s], last[s]) for s in alive]
    lives = [*sorted([*made, *borders], key=lambda one: one[1]), *scratch]
    return _Lives(lives, buffers, each, kept + library.arena_bytes, names)


def _greedy(sizes: Array, times: Sequence[Sequence[int]]) -> Array:
    """Ends of places that are given by size, the largest first: each the lowest gap among those alive with it.

    Of equal sizes the last one made comes first, as in TensorFlow Lite Micro's planner.
    """
    placed: list[tuple[float, float, int, int]] = []
    ends = np.zeros(len(sizes))
    for i in len(sizes) - 1 - np.argsort(-sizes[::-1], kind="stable"):
        size, (first, last), at = _up(sizes[i], _ALIGNED) * _ALIGNED, times[i], 0.0
        for low, high, a, b in sorted(placed):
            if a <= last and first <= b:
                if low - at >= size:
                    break
                at = max(at, high)
        ends[i] = at + size
        placed.append((at, at + size, first, last))
    return ends


#: Bytes to which a tensor's place is aligned.
_ALIGNED = 16.0


def _is_step(node: Node, runtime: Runtime) -> bool:
    """Whether an op is a step of the library, and not part of the one before it or a view."""
    return not _follows(node, runtime) and node.kind.group not in ("view", "fill")


def _follows(node: Node, runtime: Runtime) -> bool:
    """Whether a kernel does an op to its outputs."""
    return node.op in runtime.joins or (runtime.folds_norm and node.op == "batch_norm")


def _in_place(graph: TensorGraph, node: Node, library: Library) -> bool:
    groups = float(node.facts.get("groups", 1))
    return library.depthwise_in_place and groups > 1 and groups == _channels(graph, node)


def _joined(graph: TensorGraph, runtime: Runtime) -> TensorGraph:
    """The graph where ops that a kernel does to its outputs write over what they alone read."""
    tensors, users = list(graph.tensors), graph.users()
    for node in graph.nodes:
        if not _follows(node, runtime):
            continue
        over, out = node.inputs[0], node.outputs[0]
        if tensors[out].of < 0 and len(users.get(over, ())) == 1 and tensors[over].role == "activation":
            tensors[out] = replace(tensors[out], of=over)
    return replace(graph, tensors=tuple(tensors))


def _buffers(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], library: Library) -> tuple[Any, float]:
    """Bytes that the kernel of a product needs beside its tensors while it runs, and those of weights it copies."""
    if node.op not in ("conv", "linear"):
        return 0.0, 0.0
    name, _, _ = product_of(graph, node, sizes)
    loop = _loop_of(library, name, node)
    _, columns, depth, groups = extents(graph, node, sizes)
    found = loop.column_bytes * depth * groups
    if loop.plane_bytes and node.op == "conv":
        source, window = graph.shape(node.inputs[0], sizes), node.facts["kernel"]
        found = found + loop.plane_bytes * prod((s + k - 1 for s, k in zip(source[2:], window, strict=True)), start=1.0)
    return found, float(np.max(loop.weight_bytes * columns * depth * groups))
