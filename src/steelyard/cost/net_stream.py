"""Networks as a stream of engines on an FPGA: every layer has its own, and all of them work at once.

An engine computes a product of ``outputs x depth`` for each pixel with ``pe x simd`` multipliers, which divide outputs
and depth: ``cycles = pixels (outputs / pe) (depth / simd)``. An item is done every ``max cycles``; its latency follows
from when each engine has enough rows of its input to begin. Which ``pe`` and ``simd`` each layer has (its folding) is
found for the least ``max cycles`` whose logic, multipliers and memories the device has.

Logic and memories of an engine are those of FINN-R (Blott et al., ACM TRETS 11(3), 2018): products of few bits in
look-up tables, others in DSP blocks, weights in the shape of block RAM that wastes least, or in look-up tables where
they are few. FIFOs, and registers between the adders of an engine, are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from steelyard.cost.net_cycles import extents
from steelyard.cost.net_kernels import NetKernels, is_product
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError
from steelyard.machine.fabric import Fabric
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["Engine", "Folding", "Stream", "folded", "stream_of", "streamed"]

#: Bits of a weight up to which products are made of look-up tables.
LOGIC_BITS = 4.0
#: Words of a memory up to which it is made of look-up tables, 64 of a bit in each.
LOGIC_WORDS = 128.0
#: Look-up tables of an engine's control, and of its arithmetic over those of products and sums (FINN-R).
CONTROL_LUTS, LUTS_OVER = 300.0, 1.1
#: Words and bits of a block RAM of 18 Kb.
_BLOCKS = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))
BLOCK_BYTES = 18 * 1024 / 8


@dataclass(frozen=True, slots=True)
class Engine:
    """A layer: sizes of its product and of the maps it slides over."""

    outputs: float
    depth: float
    pixels: float
    waits: float
    """Share of the input that must be there before the first pixel."""
    window_bits: float
    """Rows of the input that are kept."""


@dataclass(frozen=True, slots=True)
class Folding:
    """Multipliers of an engine: outputs and depth at once."""

    pe: float
    simd: float


@dataclass(frozen=True, eq=False)
class Stream:
    """A network on the fabric."""

    engines: tuple[Engine, ...]
    foldings: tuple[Folding, ...]
    cycles: Array
    """Of each engine for an item."""
    interval: float
    """Cycles from an item to the next."""
    latency: float
    """Cycles of one item."""
    luts: float
    dsps: float
    blocks: float
    """Look-up tables, DSP blocks and block RAMs of 18 Kb."""


def folded(engines: Sequence[Engine], foldings: Sequence[Folding]) -> tuple[Array, float, float]:
    """Cycles of each engine for an item, from an item to the next, and of one item.

    An engine starts when ``waits`` of what the one before puts out is there, and ends a pixel's cycles after it at the
    earliest.
    """
    cycles = np.array(
        [
            e.pixels * np.ceil(e.outputs / f.pe) * np.ceil(e.depth / f.simd)
            for e, f in zip(engines, foldings, strict=True)
        ]
    )
    start, end = 0.0, 0.0
    for engine, own in zip(engines, cycles, strict=True):
        start += engine.waits * (end - start)
        end = max(start + own, end + own / engine.pixels)
    return cycles, float(cycles.max()), end


def _divisors(n: float) -> Array:
    whole = np.arange(1, round(n) + 1)
    return np.asarray(whole[round(n) % whole == 0], dtype=np.float64)


def _blocks(words: Array, bits: Array) -> Array:
    """Block RAMs of a memory of so many words, in the best shape."""
    shapes = [np.ceil(words / w) * np.ceil(bits / b) for w, b in _BLOCKS]
    return np.asarray(np.min(shapes, axis=0), dtype=np.float64)


def _resources(engine: Engine, pe: Any, simd: Any, weight_bits: float, bits: float) -> tuple[Array, Array, Array]:
    """Look-up tables, DSP blocks and block RAMs of an engine."""
    both, logic = weight_bits + bits, weight_bits <= LOGIC_BITS
    sums = both + np.ceil(np.log2(max(engine.depth, 2.0)))
    levels = 2.0**bits - 1.0 if logic else 1.0
    products = simd * (2.0 * np.ceil(both / 6.0) - 1.0) * both if logic else 0.0
    luts = CONTROL_LUTS + LUTS_OVER * pe * (products + both * (2.0 * simd - 1.0) + sums + levels * sums)
    words, wide = engine.outputs * engine.depth / (pe * simd), pe * simd * weight_bits
    small = words <= LOGIC_WORDS
    luts = luts + np.where(small, wide * np.ceil(words / 64.0), 0.0)
    blocks = np.where(small, 0.0, _blocks(words, wide)) + np.ceil(engine.window_bits / (BLOCK_BYTES * 8))
    return luts, (0.0 if logic else 1.0) * pe * simd, blocks


def streamed(engines: Sequence[Engine], fabric: Fabric, precision: Precision, least: float = 0.0) -> Stream:
    """The folding of least interval that fits a device.

    Args:
        engines: layers in order.
        fabric: the device.
        precision: widths of weights and maps.
        least: cycles below which the interval need not be.

    Raises:
        InputError: with one multiplier a layer it does not fit.
    """
    weight_bits, bits = precision.stored_bits, precision.bits
    limits = np.array([fabric.luts * fabric.usable, fabric.dsps, fabric.blocks])
    kept: list[tuple[Array, ...]] = []
    for engine in engines:
        pe, simd = (x.ravel() for x in np.meshgrid(_divisors(engine.outputs), _divisors(engine.depth)))
        cycles = engine.pixels * (engine.outputs / pe) * (engine.depth / simd)
        needs = np.array([np.broadcast_to(x, pe.shape) for x in _resources(engine, pe, simd, weight_bits, bits)])
        price = pe * simd + (needs / limits[:, None]).sum(axis=0) / 100.0  # multipliers first, as FINN folds
        order = np.lexsort((price, cycles))
        cycles, pe, simd, needs, price = cycles[order], pe[order], simd[order], needs[:, order], price[order]
        best = np.maximum.accumulate(np.where(price <= np.minimum.accumulate(price), np.arange(len(price)), 0))
        kept.append((cycles, pe[best], simd[best], needs[:, best]))
    slowest = max(least, *(float(k[0][0]) for k in kept))
    steps = np.unique(np.concatenate([k[0] for k in kept]))
    steps = np.unique(np.append(steps[steps >= slowest], slowest))
    places = [np.searchsorted(k[0], steps, side="right") - 1 for k in kept]
    totals = sum((k[3][:, p] for k, p in zip(kept, places, strict=True)), np.zeros((3, len(steps))))
    fitting = np.flatnonzero((totals <= limits[:, None]).all(axis=0))
    if not len(fitting):
        nearest = totals[:, int(np.argmin((totals / limits[:, None]).max(axis=0)))]
        wanted = zip(nearest, limits, _NAMES, strict=True)
        short = " and ".join(f"{a:,.0f} of {b:,.0f} {name}" for a, b, name in wanted if a > b)
        change = "fewer bits, a smaller network or a larger device"
        raise InputError(f"engines of all layers need {short} where they come nearest to fitting: {change}", field="on")
    at = int(fitting[0])
    foldings = tuple(Folding(float(k[1][p[at]]), float(k[2][p[at]])) for k, p in zip(kept, places, strict=True))
    cycles, interval, latency = folded(engines, foldings)
    luts, dsps, blocks = (float(x) for x in totals[:, at])
    return Stream(tuple(engines), foldings, cycles, interval, latency, luts, dsps, blocks)


_NAMES = ("look-up tables", "DSP blocks", "block RAMs of 18 Kb")


def stream_of(
    graph: TensorGraph, kernels: NetKernels, precision: Precision, fabric: Fabric
) -> tuple[Stream, list[int]]:
    """A network on the fabric, and which kernels are its engines.

    Raises:
        InputError: it has a product of activations, which no engine here computes, none at all, or does not fit.
    """
    given = {**graph.symbols, "batch": 1}
    where = [i for i, n in enumerate(kernels.nodes) if is_product(n)]
    strange = sorted({kernels.nodes[i].op for i in where} - {"conv", "linear"})
    if strange or not where:
        raise InputError(
            f"engines of convolutions and linear layers alone, not of {', '.join(strange) or 'nothing'}", field="model"
        )
    return streamed([_engine(graph, kernels.nodes[i], given, precision) for i in where], fabric, precision), where


def _engine(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], precision: Precision) -> Engine:
    pixels, columns, depth, groups = extents(graph, node, sizes)
    kernel = float(node.facts["kernel"][0]) if node.op == "conv" else 1.0
    waits, window = 1.0 / float(pixels), 0.0
    if kernel > 1:
        source = graph.shape(node.inputs[0], sizes)
        waits = min(1.0, kernel / float(source[2]))
        window = float(kernel * source[1] * prod(source[3:], start=1.0) * precision.bits)
    return Engine(float(columns * groups), float(depth), float(pixels), waits, window)
