"""Networks as a stream of engines on an FPGA: every layer has its own, and all of them work at once.

An engine computes a product of ``outputs x depth`` for each pixel with ``pe x simd`` multipliers, which divide outputs
and depth: ``cycles = pixels (outputs / pe) (depth / simd)``. An item is done every ``max cycles``; its latency follows
from when each engine has enough rows of its input to begin. Which ``pe`` and ``simd`` each layer has (its folding) is
given, or found for the least ``max cycles`` whose logic, multipliers and memories the device has. hls4ml states one
number, ``reuse = outputs depth / (pe simd)``, and has all outputs at once (``pe = outputs``) or one product of each
(``simd = 1``); a pixel takes ``fill + log2(depth) / levels`` cycles through its engine (Duarte et al., JINST 13, 2018).

Logic and memories of an engine are those of FINN-R (Blott et al., ACM TRETS 11(3), 2018): products of few bits in
look-up tables, others in DSP blocks, weights in the shape of block RAM that wastes least, or in look-up tables where
they are few. FIFOs, and registers between the adders of an engine, are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from steelyard.cost.net_cycles import extents
from steelyard.cost.net_kernels import NetKernels, is_product
from steelyard.deployment.library import Streaming
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError, show
from steelyard.machine.fabric import Fabric
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["Asked", "Engine", "Folding", "Stream", "folded", "read_folding", "stream_of", "streamed"]

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
    inputs: float = 0.0
    """Pixels of the input."""


@dataclass(frozen=True, slots=True)
class Folding:
    """Multipliers of an engine: outputs and depth at once."""

    pe: float
    simd: float


#: What is asked of an engine: its multipliers, or a reuse factor, how often each is used a pixel.
Asked = Folding | float


#: FINN's engines.
_FINN = Streaming()


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

    @property
    def constant(self) -> bool:
        """Whether every product has a multiplier of its own, whose weight is then a constant of the logic."""
        return all(f.pe * f.simd == e.outputs * e.depth for e, f in zip(self.engines, self.foldings, strict=True))

    def beyond(self, fabric: Fabric) -> list[str]:
        """What it takes more of than a device has, in words."""
        pairs = zip((self.luts, self.dsps, self.blocks), (fabric.luts, fabric.dsps, fabric.blocks), _NAMES, strict=True)
        return [f"{a:,.0f} {n} of {b:,.0f}" for a, b, n in pairs if a > b]


def read_folding(text: str) -> tuple[Asked, ...]:
    """What a user says of multipliers: ``144`` (a reuse factor), ``16x3,32x32`` (PE x SIMD) or both, layer by layer.

    Raises:
        InputError: it is none of these.
    """
    found = [re.fullmatch(r"(\d{1,7})(?:x(\d{1,7}))?", part.strip()) for part in text.lower().split(",")]
    if not all(m and int(m[1]) and int(m[2] or 1) for m in found) or (len(found) == 1 and found[0] and found[0][2]):
        words = "a reuse factor for all layers (144), or of each layer in order one or PE x SIMD: 16x3,32x32,512"
        raise InputError(f"expected {words}; got {show(text)}", field="folding")
    return tuple(Folding(float(m[1]), float(m[2])) if m[2] else float(m[1]) for m in found if m)


def _settled(engines: Sequence[Engine], given: Sequence[Asked]) -> list[Folding]:
    """Multipliers of each engine that were asked for; a reuse factor means the nearest that there is."""
    if len(given) not in (1, len(engines)):
        words = f"expected one for each of {len(engines)} layers, or one for all, got {len(given)}"
        raise InputError(words, field="folding")
    found = []
    for i, (engine, asked) in enumerate(zip(engines, [*given] * (len(engines) if len(given) == 1 else 1), strict=True)):
        if isinstance(asked, Folding):
            for name, value, side in (("PE", asked.pe, engine.outputs), ("SIMD", asked.simd, engine.depth)):
                if side % value:
                    able = _divisors(side)
                    near = able[np.argmin(np.abs(able - value))]
                    words = f"{name} {value:g} of layer {i + 1} does not divide its {side:g}: the nearest is {near:g}"
                    raise InputError(words, field="folding")
        found.append(asked if isinstance(asked, Folding) else _reused(engine, asked))
    return found


def _reused(engine: Engine, reuse: float) -> Folding:
    """The multipliers whose reuse factor is nearest: all outputs at once, or one product of each."""
    some = [Folding(engine.outputs, d) for d in _divisors(engine.depth)]
    some += [Folding(d, 1.0) for d in _divisors(engine.outputs)]
    return min(some, key=lambda f: abs(engine.outputs * engine.depth / (f.pe * f.simd) - reuse))


def folded(
    engines: Sequence[Engine], foldings: Sequence[Folding], how: Streaming = _FINN
) -> tuple[Array, float, float]:
    """Cycles of each engine for an item, from an item to the next, and of one item.

    An engine starts when ``waits`` of what the one before puts out is there, and ends a pixel's cycles after it at the
    earliest; what it puts out comes ``fill`` cycles and its levels of adders later.
    """
    cycles = np.array([_cycles(e, f.pe, f.simd, how) for e, f in zip(engines, foldings, strict=True)])
    start, end = 0.0, 0.0
    for engine, own in zip(engines, cycles, strict=True):
        start += engine.waits * (end - start)
        end = max(start + own, end + own / engine.pixels)
        through = how.fill + (np.ceil(np.log2(max(engine.depth, 2.0)) / how.levels) if how.levels else 0.0)
        start, end = start + through, end + through
    return cycles, float(cycles.max()), float(end)


def _cycles(engine: Engine, pe: Any, simd: Any, how: Streaming) -> Any:
    """Cycles of an engine for an item."""
    skipped = max(engine.inputs - engine.pixels, 0.0) if how.reads else 0.0
    return engine.pixels * np.ceil(engine.outputs / pe) * np.ceil(engine.depth / simd) + skipped


def _divisors(n: float) -> Array:
    whole = np.arange(1, round(n) + 1)
    return np.asarray(whole[round(n) % whole == 0], dtype=np.float64)


def _blocks(words: Array, bits: Array) -> Array:
    """Block RAMs of a memory of so many words, in the best shape."""
    shapes = [np.ceil(words / w) * np.ceil(bits / b) for w, b in _BLOCKS]
    return np.asarray(np.min(shapes, axis=0), dtype=np.float64)


def _resources(engine: Engine, pe: Any, simd: Any, precision: Precision, how: Streaming) -> tuple[Array, Array, Array]:
    """Look-up tables, DSP blocks and block RAMs of an engine."""
    weight_bits, bits = precision.stored_bits, precision.bits
    both, logic = weight_bits + bits, weight_bits <= how.logic_bits
    sums = both + np.ceil(np.log2(max(engine.depth, 2.0)))
    levels = 2.0**bits - 1.0 if logic and not how.reuse else 1.0
    products = simd * (2.0 * np.ceil(both / 6.0) - 1.0) * both if logic else 0.0
    luts = CONTROL_LUTS + LUTS_OVER * pe * (products + both * (2.0 * simd - 1.0) + sums + levels * sums)
    words, wide = engine.outputs * engine.depth / (pe * simd), pe * simd * weight_bits
    small = words <= LOGIC_WORDS
    luts = luts + np.where(small, wide * np.ceil(words / 64.0), 0.0)
    blocks = np.where(small, 0.0, _blocks(words, wide)) + np.ceil(engine.window_bits / (BLOCK_BYTES * 8))
    return luts, (0.0 if logic else 1.0) * pe * simd, blocks


def streamed(
    engines: Sequence[Engine],
    fabric: Fabric,
    precision: Precision,
    least: float = 0.0,
    how: Streaming = _FINN,
    given: Sequence[Asked] = (),
) -> Stream:
    """The folding of least interval that fits a device, or the one that was given.

    Args:
        engines: layers in order.
        fabric: the device.
        precision: widths of weights and maps.
        least: cycles below which the interval need not be.
        how: how engines are made.
        given: multipliers of each layer, or of all.

    Raises:
        InputError: with one multiplier a layer it does not fit; what was given may take more than there is
            (:meth:`Stream.beyond`).
    """
    limits = np.array([fabric.luts * fabric.usable, fabric.dsps, fabric.blocks])
    if given:
        foldings = tuple(_settled(engines, given))
        each = [_resources(e, f.pe, f.simd, precision, how) for e, f in zip(engines, foldings, strict=True)]
        totals = np.array([float(sum(np.max(one[i]) for one in each)) for i in range(3)])
        return _stream(engines, foldings, totals, how)
    kept: list[tuple[Array, ...]] = []
    for engine in engines:
        pe, simd = (x.ravel() for x in np.meshgrid(_divisors(engine.outputs), _divisors(engine.depth)))
        able = (pe == engine.outputs) | (simd == 1.0) | (not how.reuse)
        pe, simd = pe[able], simd[able]
        cycles = _cycles(engine, pe, simd, how)
        needs = np.array([np.broadcast_to(x, pe.shape) for x in _resources(engine, pe, simd, precision, how)])
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
    return _stream(engines, foldings, totals[:, at], how)


def _stream(engines: Sequence[Engine], foldings: tuple[Folding, ...], totals: Array, how: Streaming) -> Stream:
    cycles, interval, latency = folded(engines, foldings, how)
    luts, dsps, blocks = (float(x) for x in totals)
    return Stream(tuple(engines), foldings, cycles, interval, latency, luts, dsps, blocks)


_NAMES = ("look-up tables", "DSP blocks", "block RAMs of 18 Kb")


def stream_of(
    graph: TensorGraph,
    kernels: NetKernels,
    precision: Precision,
    fabric: Fabric,
    how: Streaming = _FINN,
    given: Sequence[Asked] = (),
) -> tuple[Stream, list[int]]:
    """A network on the fabric, and which kernels are its engines.

    Raises:
        InputError: it has a product of activations, which no engine here computes, none at all, or does not fit.
    """
    sizes = {**graph.symbols, "batch": 1}
    where = [i for i, n in enumerate(kernels.nodes) if is_product(n)]
    strange = sorted({kernels.nodes[i].op for i in where} - {"conv", "linear"})
    if strange or not where:
        raise InputError(
            f"engines of convolutions and linear layers alone, not of {', '.join(strange) or 'nothing'}", field="model"
        )
    engines = [_engine(graph, kernels.nodes[i], sizes, precision) for i in where]
    return streamed(engines, fabric, precision, how=how, given=given), where


def _engine(graph: TensorGraph, node: Node, sizes: Mapping[str, Any], precision: Precision) -> Engine:
    pixels, columns, depth, groups = extents(graph, node, sizes)
    kernel = float(node.facts["kernel"][0]) if node.op == "conv" else 1.0
    waits, window, inputs = 1.0 / float(pixels), 0.0, float(pixels)
    if node.op == "conv":
        source = graph.shape(node.inputs[0], sizes)
        inputs = float(prod(source[2:], start=1.0))
    if kernel > 1:
        waits = min(1.0, kernel / float(source[2]))
        window = float(kernel * source[1] * prod(source[3:], start=1.0) * precision.bits)
    return Engine(float(columns * groups), float(depth), float(pixels), waits, window, inputs)
