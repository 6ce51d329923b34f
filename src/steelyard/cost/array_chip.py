"""A machine as the mapper of loops sees it, and layers of a network as loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.array_links import links_of
from steelyard.cost.array_mapping import FLEXIBLE, LEVELS, MOST, MOVED, best_nests
from steelyard.cost.array_unroll import MAPPED, unrollings
from steelyard.cost.array_zeros import done_share, near_shares, packed_share, turns_left
from steelyard.cost.energy import DEFAULT_ENERGY_J_PER_OP
from steelyard.cost.net_effect import DENSE, Density
from steelyard.cost.systolic import SYSTOLIC, systolic_cycles
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError
from steelyard.machine.component import Compute, Machine, Memory
from steelyard.machine.process import multiply_j, sram_j_per_byte
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = [
    "GOALS",
    "Chip",
    "Mapped",
    "byte_j",
    "chip_of",
    "fixed_cycles",
    "layer_levels",
    "layers_of",
    "level_row",
    "mac_j",
    "mapped",
    "pass_inputs",
    "way_cycles",
    "ways_of",
    "weight_runs",
]

#: Exponents of time and energy by what a compiler maps for; where one is equal, the other decides.
GOALS: Mapping[str, tuple[float, float]] = {"time": (1.0, 1e-3), "energy": (1e-3, 1.0), "both": (1.0, 1.0)}
_OPERANDS = ("weights", "inputs", "outputs")


@dataclass(frozen=True, eq=False)
class Chip:
    """Numbers of one machine in one precision, as :func:`steelyard.cost.array_mapping.best_nests` takes them."""

    engine: Compute
    """With the weights that its columns hold, and the clock of whole inputs."""
    path: tuple[Memory, ...]
    """From the innermost level outwards."""
    levels: NDArray[np.float64]
    rates: NDArray[np.float64]
    """``[levels, 4]``: bytes a cycle."""
    joules: NDArray[np.float64]
    """``[levels, 3]``: of a byte read, written and over a link."""
    multiply_j: float
    cycle_j: float
    """What a cycle draws whatever is done: the idle power."""
    bits: NDArray[np.float64]
    keeps: int = -1
    """The level where activations stay that fit it; -1: none."""
    fuses: int = -1
    """The level through which layers may run depth first; -1: none."""

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What the loops of a layer depend on."""
        e, arrays = self.engine, (self.levels, self.rates, self.joules, self.bits)
        words = (e.rows, e.columns, e.depth, e.units, e.dataflow, e.overlaps, e.maps_for, self.multiply_j, self.cycle_j)
        zeros = (e.gates, e.skips, e.settles, e.queue)
        return (*words, *zeros, self.keeps, self.path, *(a.tobytes() for a in arrays))


def level_row(memory: Memory, each_bytes: float, copies: float, root: bool) -> list[float]:
    """A level as the mapper takes it; ``root``: the outermost, which holds everything."""
    held = [float(not memory.holds or o in memory.holds or root) for o in _OPERANDS]
    return [each_bytes, copies, *held, memory.buffers, float(memory.waits), float(memory.whole), *[1.0] * 6]


def byte_j(memory: Memory, each_bytes: Any, nm: float, root: bool) -> tuple[Any, Any]:
    """Energy of a byte read and written, J; the capacity of a copy may be an array."""
    read: Any = memory.energy_j_per_byte
    if not read and nm and not root:
        read = sram_j_per_byte(each_bytes, nm)
    return read, memory.write_energy_j_per_byte or read


def mac_j(engine: Compute, fmt: str, nm: float) -> float:
    """Energy of a multiply-accumulate, J: as stated, by the process, or the usual one."""
    stated = 2.0 * engine.energy_j_per_op.get(fmt, 0.0)
    return stated or multiply_j(fmt, nm) or 2.0 * DEFAULT_ENERGY_J_PER_OP


def chip_of(machine: Machine, engine: Compute, fmt: str, precision: Precision) -> Chip:
    """What the mapper needs of a machine.

    Raises:
        InputError: the engine is no array with a dataflow, has no clock, or lies in too many levels.
    """
    where = f"compute.{engine.name}"
    if engine.dataflow not in MAPPED or not engine.rows or not engine.columns:
        words = f"expected an array with rows, columns and a dataflow ({', '.join(MAPPED)}) to map loops onto"
        raise InputError(words, field=f"{where}.dataflow")
    if not engine.clock_hz:
        raise InputError("expected the clock of the array", field=f"{where}.clock_hz")
    wide = engine.weights_wide(precision.stored_bits, engine.columns)
    if wide < 1:
        words = f"expected columns for a weight of {precision.stored_bits:g} bits, got {engine.columns:g}"
        raise InputError(words, field=f"{where}.columns")
    path = machine.path(engine)
    multiply = mac_j(engine, fmt, machine.process_nm)
    engine = replace(
        engine, columns=wide, clock_hz=engine.clock_hz / engine.turns(precision.bits, precision.stored_bits)
    )
    if len(path) > LEVELS:
        raise InputError(f"expected at most {LEVELS} levels on the way to the array, got {len(path)}", field="memory")
    levels, rates, joules = [], [], []
    for memory in path:
        root = memory is path[-1]
        each = memory.capacity_bytes / memory.copies
        levels.append(level_row(memory, each, memory.copies, root))
        write = memory.write_bandwidth_bytes_per_s
        entry = memory.link_bandwidth_bytes_per_s if memory.network else 0.0
        rates.append([memory.bandwidth_bytes_per_s, write or memory.bandwidth_bytes_per_s, float(not write), entry])
        joules.append([*byte_j(memory, each, machine.process_nm, root), memory.link_energy_j_per_byte])
    rate = np.array(rates)
    rate[:, [0, 1, 3]] /= engine.clock_hz
    bits = np.array([precision.stored_bits, precision.bits, precision.bits, max(engine.sum_bits, precision.bits)])
    keeps, fuses = (next((i for i, m in enumerate(path[:-1]) if getattr(m, n)), -1) for n in ("keeps", "fuses"))
    cycle = machine.idle_w / engine.clock_hz
    return Chip(engine, path, np.array(levels), rate, np.array(joules), multiply, cycle, bits, keeps, fuses)


#: Loops of a layer in words, in the order of :data:`steelyard.cost.array_mapping.DIMS`.
LOOPS = ("batch", "outputs", "inputs", "rows", "columns", "filter_rows", "filter_columns", "groups")


@dataclass(frozen=True, eq=False)
class Mapped:
    """A layer on a chip."""

    cycles: float
    """All cycles, and of them those in which the array works."""
    busy: float
    energy_j: float
    read: NDArray[np.float64]
    written: NDArray[np.float64]
    """Bytes of each level, inner to outer."""
    spread: Mapping[str, float]
    """Loops that are spread over multipliers, and over how many."""
    tile: Mapping[str, float]
    """What runs before anything outside of it: inputs, outputs and rows."""

    def times(self, count: float) -> Mapped:
        """So many of them, one after the other."""
        amounts = {n: getattr(self, n) * count for n in ("cycles", "busy", "energy_j", "read", "written")}
        return replace(self, **amounts)


def layer_levels(
    layer: NDArray[np.float64],
    levels: NDArray[np.float64],
    bits: NDArray[np.float64],
    keeps: int,
    path: tuple[Memory, ...] = (),
    engine: Compute | None = None,
    density: Density = DENSE,
) -> NDArray[np.float64]:
    """The levels of a layer: what zeros leave out of them, and what does not leave the chip.

    Its inputs and outputs stay where both fit the level that keeps them.
    """
    if engine is not None and min(density) < 1.0:
        levels = levels.copy()
        levels[:, 11:] = near_shares(engine, density)
        for v, memory in enumerate(path):
            for t, operand in enumerate(_OPERANDS):
                if operand in memory.packs:
                    levels[v, 8 + t] = packed_share(density[t], float(bits[t]), memory.run_bits)
    if keeps < 0:
        return levels
    high = (layer[3] - 1) * layer[8] + (layer[5] - 1) * layer[10] + 1
    wide = (layer[4] - 1) * layer[9] + (layer[6] - 1) * layer[11] + 1
    sides = layer[0] * layer[7] * np.array([layer[2] * high * wide, layer[1] * layer[3] * layer[4]])
    if (sides * levels[keeps, 9:11]).sum() * bits[1] / 8.0 > levels[keeps, 0]:
        return levels
    kept = levels.copy()
    kept[keeps + 1 :, 3:5] = 0.0
    return kept


def pass_inputs(
    layer: NDArray[np.float64], levels: NDArray[np.float64], bits: NDArray[np.float64], dataflow: str
) -> float:
    """Inputs whose products a multiplier adds while rows slide through it: as many as it holds the filter's width of.

    Row stationary alone; inf: loops run in any order.
    """
    if dataflow != "row_stationary":
        return float(np.inf)
    pad = next((level[0] for level in levels if level[3] > 0.0), np.inf)
    return float(max(1.0, pad * 8.0 / bits[1] // layer[6]))


_KNOWN: dict[tuple[Any, ...], Mapped] = {}


def mapped(layer: tuple[float, ...], chip: Chip, most: int = MOST, density: Density = DENSE) -> Mapped:
    """The best mapping of a layer (columns :data:`steelyard.cost.array_mapping.LAYER`) on a chip; equal ones once."""
    key = (layer, most, density, chip.key)
    if key not in _KNOWN:
        if len(_KNOWN) > 100_000:
            _KNOWN.clear()
        _KNOWN[key] = _mapped(np.array(layer), chip, most, density)
    return _KNOWN[key]


def way_cycles(
    layer: NDArray[np.float64], ways: NDArray[np.float64], engine: Compute, density: Density, run_bits: float = 0.0
) -> NDArray[np.float64]:
    """Cycles of a layer spread in each of these ways where they are not its turns, ``[ways]``; else 0.

    Args:
        layer, ways, engine, density: as of :func:`steelyard.cost.array_zeros.turns_left`.
        run_bits: of the weights beside the multipliers (:func:`weight_runs`).
    """
    fixed = np.full(len(ways), fixed_cycles(layer, engine))
    if not engine.skips or min(density) >= 1.0:
        return fixed
    turns = np.where(fixed > 0.0, fixed, np.ceil(layer[:8] / ways).prod(axis=1))
    return np.maximum(1.0, turns * turns_left(layer, ways, engine, density, run_bits))


def weight_runs(path: tuple[Memory, ...]) -> float:
    """Bits of runs with which weights are packed in the level beside the multipliers; 0: they are not."""
    near = next((m for m in path if not m.holds or "weights" in m.holds), path[-1])
    return near.run_bits if "weights" in near.packs else 0.0


def fixed_cycles(layer: NDArray[np.float64], engine: Compute) -> float:
    """Cycles of a systolic array that loads and computes in turns; 0: it overlaps them."""
    if engine.dataflow not in SYSTOLIC or engine.overlaps:
        return 0.0
    m, n, k = layer[0] * layer[3] * layer[4], layer[1], layer[2] * layer[5] * layer[6]
    depth = np.ceil(k / engine.depth)
    cycles = systolic_cycles(m, n, depth, engine.rows, engine.columns, engine.dataflow, engine.units)
    return float(cycles * layer[7])


def ways_of(layer: NDArray[np.float64], engine: Compute) -> NDArray[np.float64]:
    """How a layer may be spread over the arrays of an engine."""
    return unrollings(layer, engine.rows, engine.columns, engine.depth, engine.dataflow, engine.units)


def _mapped(layer: NDArray[np.float64], chip: Chip, most: int, density: Density) -> Mapped:
    ways = ways_of(layer, chip.engine)
    fixed = way_cycles(layer, ways, chip.engine, density, weight_runs(chip.path))
    done = prod(layer[:8]) * done_share(chip.engine, density)
    levels = layer_levels(layer, chip.levels, chip.bits, chip.keeps, chip.path, chip.engine, density)
    joules = np.vstack([chip.joules, [done * chip.multiply_j, chip.cycle_j, 0.0]])[None]
    links = links_of(chip.path, ways, chip.engine)
    goals = np.array([[*GOALS[chip.engine.maps_for], 0.0]])
    inputs = pass_inputs(layer, levels, chip.bits, chip.engine.dataflow)
    most = most * FLEXIBLE if chip.engine.dataflow == "flexible" else most
    asked = (layer, ways, fixed, levels, chip.bits, chip.rates[None], joules, goals, most, inputs, links)
    found, _, (nest,) = best_nests(*asked)
    row, count = found[0], len(chip.levels)
    way, *tile = nest
    return Mapped(
        float(row[MOVED]),
        float(row[0]),
        float(row[MOVED + 1]),
        row[3 : 3 + count],
        row[3 + LEVELS : 3 + LEVELS + count],
        {n: float(many) for n, many in zip(LOOPS, ways[way], strict=True) if many > 1},
        dict(zip(("inputs", "outputs", "rows"), tile, strict=True)),
    )


def _layer(g: Any, b: Any, k: Any, c: Any, p: Any, q: Any = 1.0, r: Any = 1.0, s: Any = 1.0) -> list[Any]:
    return [b, k, c, p, q, r, s, g, 1.0, 1.0, 1.0, 1.0]


def layers_of(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> list[tuple[list[Any], float]]:
    """The loops of a product, as columns of a layer with how often they run; sizes may be arrays over scenarios.

    A matrix product has its rows as rows of outputs; attention is two products a head; a recurrence one a frame.
    """
    if node.op == "conv":
        return [(_convolution(graph, node, sizes), 1.0)]
    if node.op == "attention":
        q, k, v = (graph.shape(i, sizes) for i in node.inputs[:3])
        heads, half = prod(q[:-2], start=1.0), 0.5 if node.facts.get("causal") else 1.0
        return [(_layer(heads, 1.0, k[-2], q[-1], q[-2]), half), (_layer(heads, 1.0, v[-1], k[-2], q[-2]), half)]
    if node.op == "recurrent":
        facts, x = node.facts, graph.shape(node.inputs[0], sizes)
        frames = x[1 if facts.get("batch_first") and len(x) > 2 else 0]
        rows, found, width = prod(x[:-1], start=1.0) / frames, [], x[-1]
        for _ in range(facts["layers"]):
            step = _layer(1.0, 1.0, facts["gates"] * facts["hidden"], width + facts["hidden"], rows)
            found.append((step, float(np.max(frames)) * facts["directions"]))
            width = facts["hidden"] * facts["directions"]
        return found
    out, a = graph.shape(node.outputs[0], sizes), graph.shape(node.inputs[0], sizes)
    depth, columns = node.facts.get("depth", a[-1]), out[-1] if out else 1.0
    if node.op == "linear":
        return [(_layer(1.0, 1.0, columns, depth, prod(out[:-1], start=1.0)), 1.0)]
    return [(_layer(prod(out[:-2], start=1.0), 1.0, columns, depth, out[-2] if len(out) > 1 else 1.0), 1.0)]


def _convolution(graph: TensorGraph, node: Node, sizes: Mapping[str, Any]) -> list[Any]:
    facts = node.facts
    weight, groups = graph.shape(node.inputs[1], sizes), facts.get("groups", 1)
    source, out = graph.shape(node.inputs[0], sizes), graph.shape(node.outputs[0], sizes)
    kernel, stride = [float(x) for x in facts["kernel"]], [float(x) for x in facts["stride"]]
    dilation = [float(x) for x in facts.get("dilation", [1] * len(kernel))]
    if facts.get("transposed"):  # every input point makes a window of outputs: a product with the window as outputs
        batch, points = source[0], prod(source[2:], start=1.0)
        return _layer(groups, batch, weight[1] * prod(kernel), weight[0] / groups, points)
    space = list(out[2:])
    while len(kernel) < 2:
        space, kernel, stride, dilation = [1.0, *space], [1.0, *kernel], [1.0, *stride], [1.0, *dilation]
    frames, depth = prod(space[:-2], start=1.0), prod(kernel[:-2])
    found = _layer(
        groups, out[0] * frames, weight[0] / groups, weight[1] * depth, space[-2], space[-1], kernel[-2], kernel[-1]
    )
    return [*found[:8], stride[-2], stride[-1], dilation[-2], dilation[-1]]
