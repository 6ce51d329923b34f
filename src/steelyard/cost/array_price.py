"""The kernels of a network on a chip of arrays: products by the best mapping of their loops, the rest by its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.array_chip import GOALS, Chip, Mapped, chip_of, layers_of, mapped
from steelyard.cost.array_fused import Stack, stacks_of
from steelyard.cost.array_mapping import DIMS, HAS
from steelyard.cost.array_zeros import done_share, taken_share
from steelyard.cost.energy import static_power_w
from steelyard.cost.net_effect import DENSE, Density
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.cost.net_terms import limits
from steelyard.cost.site import Site
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["ArrayPrice", "has_weights", "is_mapped", "on_array", "sees_image"]


@dataclass(frozen=True, eq=False)
class ArrayPrice:
    """Arrays ``[kernels, scenarios]``, in s and J."""

    chip: Chip
    kernel_s: Array
    kernel_j: Array
    """Of arithmetic and of every level."""
    busy_s: Array
    """Time in which multipliers of the array work, be it one."""
    macs: Array
    """Products that take a cycle."""
    arithmetic_j: Array
    """Of the energy, that of products."""
    moved: Array
    """Bytes read and written of each level, ``[kernels, scenarios, levels]``, inner to outer, of layers one by one."""
    nests: tuple[Mapped | None, ...] = ()
    """Of each kernel that is a product its last layer in the first scenario."""
    stacks: tuple[Stack, ...] = ()
    """Layers that run depth first, of the first scenario."""


def is_mapped(name: str, node: Node) -> bool:
    """Whether a kernel of a class is a product of loops."""
    return name in (*PRODUCTS, "wide", "depthwise", "depthwise_large") and node.kind.group in ("product", "recurrent")


def sees_image(graph: TensorGraph, node: Node) -> bool:
    """Whether a product sees what the network is given, of which nothing is zero."""
    return graph.tensors[graph.storage(node.inputs[0])].role == "input"


def has_weights(graph: TensorGraph, node: Node) -> bool:
    """Whether a product is with weights, and not of two maps."""
    return len(node.inputs) > 1 and graph.tensors[graph.storage(node.inputs[1])].role == "weight"


def _density(graph: TensorGraph, node: Node, density: Density) -> Density:
    """What is not zero of a product; one of two maps has no weights."""
    weights = density.weights if has_weights(graph, node) else 1.0
    return Density(weights, 1.0 if sees_image(graph, node) else density.inputs, density.outputs)


def on_array(
    graph: TensorGraph,
    kernels: NetKernels,
    sizes: Mapping[str, Any],
    site: Site,
    precision: Precision,
    density: Density = DENSE,
) -> ArrayPrice:
    """Price the kernels of a forward pass.

    Args:
        graph: the network.
        kernels: what was lowered of it.
        sizes: values of its symbols, arrays over scenarios.
        site: the engine with its machine.
        precision: widths.
        density: what is not zero, of weights and of maps; what the network is given has no zeros.

    Raises:
        InputError: the machine is no array, or kernels have no op, as those of a training step.
    """
    if len(kernels.nodes) > len(kernels):
        raise InputError("loops are mapped of a network as it is: no technique that drops its kernels", field="runtime")
    chip = chip_of(site.machine, site.engine, site.compute, precision)
    given = {**graph.symbols, **sizes}
    work, traffic = limits(kernels, site)
    moved = kernels.bytes * site.machine.root.energy_j_per_byte
    kernel_s, busy_s = np.maximum(work, traffic), np.zeros(work.shape)
    kernel_j, macs = moved + kernels.flops / 2.0 * chip.multiply_j, np.zeros(work.shape)
    arithmetic_j, level_bytes = np.zeros(work.shape), np.zeros((*work.shape, len(chip.path)))
    level_bytes[..., -1] = kernels.bytes
    nests: list[Mapped | None] = [None] * len(kernels)
    for i, (name, node) in enumerate(zip(kernels.classes, kernels.nodes, strict=False)):
        if not is_mapped(name, node):
            continue
        kernel_s[i], kernel_j[i], busy_s[i], level_bytes[i] = 0.0, 0.0, 0.0, 0.0
        own = _density(graph, node, density)
        for columns, count in layers_of(graph, node, given):
            rows = np.broadcast_arrays(*columns, np.zeros(work.shape[1]))[:-1]
            for j, layer in enumerate(zip(*rows, strict=True)):
                products = float(np.prod(layer[:8])) * count
                one = mapped(tuple(float(x) for x in layer), chip, density=own).times(count)
                nests[i] = one if j == 0 else nests[i]
                kernel_s[i, j] += one.cycles / chip.engine.clock_hz
                busy_s[i, j] += one.busy / chip.engine.clock_hz
                kernel_j[i, j] += one.energy_j
                level_bytes[i, j] += one.read + one.written
                macs[i, j] += products * taken_share(chip.engine, own)
                arithmetic_j[i, j] += products * done_share(chip.engine, own) * chip.multiply_j
    price = ArrayPrice(chip, kernel_s, kernel_j, busy_s, macs, arithmetic_j, level_bytes, tuple(nests))
    return price if chip.fuses < 0 else _depth_first(graph, kernels, given, site, density, price, work)


@dataclass(frozen=True, eq=False)
class _Pass:
    """A network of one scenario on a chip: its item's sizes, and what its other kernels work, ``[kernels]`` in s."""

    graph: TensorGraph
    kernels: NetKernels
    chip: Chip
    density: Density
    at: int
    """The scenario."""
    batch: float
    one: Mapping[str, Any]
    work_s: Array


def _depth_first(
    graph: TensorGraph,
    kernels: NetKernels,
    given: Mapping[str, Any],
    site: Site,
    density: Density,
    apart: ArrayPrice,
    work: Array,
) -> ArrayPrice:
    """Stacks of layers run tile by tile where that is better by what the compiler maps for; ``apart``: one by one."""
    chip, idle_w = apart.chip, static_power_w(site.machine)
    kernel_s, kernel_j, busy_s = apart.kernel_s.copy(), apart.kernel_j.copy(), apart.busy_s.copy()
    place = {id(node): k for k, node in enumerate(graph.nodes)}
    where = [place[id(node)] for node in kernels.nodes]
    level, (weight, each) = chip.levels[chip.fuses], chip.bits[:2] / 8.0
    of_time, of_energy = GOALS[chip.engine.maps_for]
    taken: list[Stack] = []
    for j in range(work.shape[1]):
        sizes = {n: float(np.broadcast_to(x, work.shape[1])[j]) for n, x in given.items()}
        one = {**sizes, "batch": 1.0}
        asked = _Pass(graph, kernels, chip, density, j, sizes.get("batch", 1.0), one, work[:, j])
        for stack in stacks_of(graph, sizes, set(where), float(level[0]), each, weight, level[2] > 0.0):
            inside = [i for i, k in enumerate(where) if stack.first <= k < stack.last]
            took, used, busy = _in_tiles(asked, stack, inside)
            time, energy = float(took.sum()), float(used.sum())
            was_s, was_j = float(apart.kernel_s[inside, j].sum()), float(apart.kernel_j[inside, j].sum())
            gain = of_time * np.log(time / was_s)
            gain += of_energy * np.log((energy + time * idle_w) / (was_j + was_s * idle_w))
            if gain < 0.0:
                kernel_s[inside, j], kernel_j[inside, j], busy_s[inside, j] = took, used, busy
                taken += [stack] if j == 0 else []
    return replace(apart, kernel_s=kernel_s, kernel_j=kernel_j, busy_s=busy_s, stacks=tuple(taken))


def _in_tiles(asked: _Pass, stack: Stack, inside: list[int]) -> tuple[Array, Array, Array]:
    """Time in s, energy in J and time at work of the kernels ``inside`` a stack, of all tiles and items.

    What passes outside is shared out over them: they take as long as it does at least.
    """
    chip, kernels, j, v = asked.chip, asked.kernels, asked.at, asked.chip.fuses
    root, hz = chip.rates[-1] * chip.engine.clock_hz, chip.engine.clock_hz
    took, used, busy = np.zeros(len(inside)), np.zeros(len(inside)), np.zeros(len(inside))
    read = asked.batch * stack.read_bytes + (stack.weights_bytes if stack.resident else 0.0)
    written = asked.batch * stack.written_bytes
    outside_s = read / root[0] + written / root[1]
    for n, i in enumerate(inside):
        node = kernels.nodes[i]
        if not is_mapped(kernels.classes[i], node):
            passing = kernels.read[i, j] + kernels.written[i, j]
            took[n] = max(asked.work_s[i], passing / chip.path[v].bandwidth_bytes_per_s)
            used[n] = passing * chip.joules[v, 0] + kernels.flops[i, j] / 2.0 * chip.multiply_j
            continue
        density = _density(asked.graph, node, asked.density)
        for columns, count in layers_of(asked.graph, node, asked.one):
            layer = np.array([float(x) for x in columns])
            tiled = _tiled(chip, stack, layer)
            layer[3:5] = np.ceil(layer[3] / stack.rows), np.ceil(layer[4] / stack.columns)
            found = mapped(tuple(layer.tolist()), tiled, density=density)
            all_of = found.times(count * asked.batch * stack.rows * stack.columns)
            took[n] += all_of.cycles / hz
            busy[n] += all_of.busy / hz
            used[n] += all_of.energy_j
            outside_s += all_of.read[-1] / root[0] + all_of.written[-1] / root[1]
    moved_j = read * (chip.joules[-1, 0] + chip.joules[v, 1]) + written * (chip.joules[-1, 1] + chip.joules[v, 0])
    return took * max(1.0, outside_s / took.sum()), used * (1.0 + moved_j / used.sum()), busy


def _tiled(chip: Chip, stack: Stack, layer: Array) -> Chip:
    """The chip as tiles of a layer see it: lines, and weights of the others that stay, take their room."""
    v, levels = chip.fuses, chip.levels.copy()
    levels[v, 0] -= stack.lines_bytes
    if stack.resident:
        own = float(layer[: len(DIMS)][HAS[0]].prod()) * chip.bits[0] / 8.0
        levels[v, 0] -= stack.weights_bytes - own
        levels[v + 1 :, 2] = 0.0
    return replace(chip, levels=levels, keeps=v)
