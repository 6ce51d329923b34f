"""Products of llama.cpp on a GPU: weights in blocks of 32, multiplied as 8-bit integers by kernels of its own.

    product    T = launch + (C^q + M^q)^(1/q)
               C = 2 n k (ceil8(m) + unpack_rows ceil(m / 128)) / (ops_per_clock units clock)
               M = (weights + activations) / min(stream_frac DRAM, stream_bytes_per_clock units clock)
    experts    the same over tiles of tile = min(128, ceil8(tokens)) rows: an expert that is hit has rows / tile + 1/2
    widened    C = 2 m n k / (wide_frac F16), after a pass that reads the weights and writes them in 16 bits

What bounds these kernels is not the integer matrix engine: each block's 32-bit sums are converted to floats and scaled,
on the vector lanes of a unit, whose number has hardly changed since 2018. So the rate is one of clocks and units, and
the same on parts whose matrix engines differ by a factor of eight. Up to eight rows a kernel for vectors runs, without
tiles. Tiles of experts are as tall as the step has tokens, up to 128; of the last tile of an expert half is empty on
average. 16-bit weights, and blocks where there are no integers, are multiplied in 16 bits with 16-bit sums, which
GeForce parts do at their full rate. Theory and measured accuracy: ``docs/methods/gemm.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.kernel import Kernel
from steelyard.cost.moe import Router, expert_loads
from steelyard.cost.parameters import Calibrated, calibrated
from steelyard.cost.site import Site
from steelyard.deployment.engine import Engine
from steelyard.machine.component import Compute, Machine

__all__ = ["GgmlParameters", "calibration", "computed", "experts_time_s", "product_time_s"]

Array = NDArray[np.float64]

#: Compute format of these products: both operands are brought to it.
COMPUTED = "int8"
#: Those of all products priced here.
FORMATS = (COMPUTED, "fp16", "bf16")
#: Rows up to which the kernel for vectors runs (``MMVQ_MAX_BATCH_SIZE``), and rows of the tallest tile.
FEW_ROWS, TILE_ROWS, STEP_ROWS = 8.0, 128.0, 8.0
#: Weights below so many bits are in blocks.
BLOCK_BITS = 12.0
#: Activations are 32-bit floats between kernels, and 8-bit with a scale per 32 inside a product.
FLOAT_BYTES, QUANTISED_BYTES = 4.0, 1.125
#: Bytes of an element that was widened.
WIDE_BYTES = 2.0
#: Passes over the hidden and the inner rows of routed tokens, each a kernel of its own: the products' results, biases
#: (two), the gate (three, inner rows), rows quantised, weighted (two), added up (two, hidden rows).
EXPERT_PASSES = 7.0


@dataclass(frozen=True, slots=True)
class GgmlParameters:
    """Fitted figures of a family or a software stack."""

    ops_per_clock: float
    """Operations per clock and unit of tall products."""
    few_rows_frac: float = 0.25
    """Of that rate, what the kernel for vectors reaches per row."""
    unpack_rows: float = 20.0
    """Unpacking a tile of weights takes as long as multiplying so many rows."""
    stream_frac: float = 0.88
    """Share of memory bandwidth that reading weights sustains."""
    stream_bytes_per_clock: float = 1e3
    """The most a unit reads per clock: parts with fast memory and few units do not reach their bandwidth."""
    wide_frac: float = 0.46
    """Of the units' 16-bit rate, what tall products in 16 bits sustain, conversions between the formats beside."""
    launch_s: float = 2.5e-6
    """s: of one product, the kernel that quantises its input included."""
    expert_launches: float = 6.0
    """Launches of a layer of experts, in those of a product."""
    overlap_power: float = 1.5
    """Exponent joining arithmetic and memory; 1: one after the other."""


@dataclass(frozen=True, slots=True)
class _NoParameters(GgmlParameters):
    ops_per_clock: float = 0.0


def calibration(engine: Engine, machine: Machine) -> Calibrated | None:
    """The figures of llama.cpp's own kernels on a machine, of its family or its software stack.

    None: another engine, or nothing is known of it there.
    """
    if not engine.block_products:
        return None
    found = calibrated("ggml", _NoParameters, machine.name, (machine.family, machine.launch))
    return found if found.source != "default" else None


def computed(kernel: Kernel, at: Compute, engine: Engine, machine: Machine) -> str:
    """The format a kernel is computed in on an engine of a machine: 8-bit integers, or as lowered."""
    integer = engine.block_products == "integer" and COMPUTED in at.peak and kernel.kind in ("gemm", "moe")
    if integer and kernel.features["weight_bits"] < BLOCK_BITS and calibration(engine, machine):
        return COMPUTED
    return kernel.compute if kernel.compute in at.peak else next(iter(at.peak))


def product_time_s(kernel: Kernel, site: Site, p: GgmlParameters) -> Any:
    """Seconds of one product: by rows for vectors, in blocks as integers, or widened to 16 bits first."""
    f = kernel.features
    m, n, k, groups = (np.asarray(f[name], dtype=np.float64) for name in ("m", "n", "k", "groups"))
    blocks, few = f["weight_bits"] < BLOCK_BITS, m <= FEW_ROWS
    elements, flops = n * k * groups, 2.0 * m * n * k * groups
    converted = FLOAT_BYTES + 2.0 * (QUANTISED_BYTES if blocks else WIDE_BYTES)
    moving = groups * m * (k * converted + n * FLOAT_BYTES)
    weights, before = elements * f["weight_bits"] / 8.0, np.zeros(())
    if site.compute == COMPUTED:
        rows = np.ceil(m / STEP_ROWS) * STEP_ROWS + p.unpack_rows * np.ceil(m / TILE_ROWS)
        many = 2.0 * elements * rows / _rate(site, p)
    else:
        many = flops / (p.wide_frac * site.feed16_ops_per_s)
        if blocks:  # read and written, 16 bits wide, by a kernel before
            before = np.where(few, 0.0, p.launch_s + (weights + WIDE_BYTES * elements) / _stream(site, p))
            weights = np.where(few, weights, WIDE_BYTES * elements)
    compute = np.where(few, flops / (_rate(site, p) * p.few_rows_frac), many)
    return p.launch_s + before + _join(compute, _memory(weights, moving, site, p), p.overlap_power)


def experts_time_s(kernel: Kernel, site: Site, p: GgmlParameters) -> Any:
    """Seconds of the routed experts of one layer."""
    f = kernel.features
    tokens = np.asarray(f["tokens"], dtype=np.float64)
    rows, hit, count = expert_loads(tokens, f["top_k"], f["total_experts"], Router.of(kernel), f["experts"])
    one = np.asarray(f["hidden"], dtype=np.float64) * f["intermediate"] * (3.0 if f["gated"] else 2.0)
    few = tokens <= 1.0
    tile = np.where(few, 1.0, np.minimum(np.ceil(tokens / STEP_ROWS) * STEP_ROWS, TILE_ROWS))[..., None]
    tiles = np.where(few[..., None], rows, rows / tile + 0.5 * hit)
    height = np.where(few[..., None], tile, tile + p.unpack_rows)
    multiplied = np.sum(tiles * height * count, axis=-1)
    compute = 2.0 * one * multiplied / (_rate(site, p) * np.where(few, p.few_rows_frac, 1.0))
    weights = one * np.sum(hit * count, axis=-1) * f["weight_bits"] / 8.0
    routed = np.sum(rows * count, axis=-1)
    widths = np.asarray(f["hidden"], dtype=np.float64) + f["intermediate"]
    moving = routed * widths * (QUANTISED_BYTES + EXPERT_PASSES * FLOAT_BYTES)
    memory = _memory(weights, moving, site, p)
    return p.expert_launches * p.launch_s + _join(compute, memory, p.overlap_power)


def _rate(site: Site, p: GgmlParameters) -> float:
    return p.ops_per_clock * site.engine.units * site.clock_hz


def _memory(weights: Array, moving: Array, site: Site, p: GgmlParameters) -> Array:
    cold = np.maximum(moving - site.l2_bytes, 0.0)
    passing = cold / (p.stream_frac * site.dram_bytes_per_s) + moving / site.l2_bytes_per_s
    return np.asarray(weights / _stream(site, p) + passing)


def _stream(site: Site, p: GgmlParameters) -> float:
    units = p.stream_bytes_per_clock * site.engine.units * site.clock_hz
    return min(p.stream_frac * site.dram_bytes_per_s, units)


def _join(compute: Array, memory: Array, q: float) -> Array:
    longer = np.maximum(np.maximum(compute, memory), np.finfo(np.float64).tiny)
    return np.asarray(longer * (1.0 + (np.minimum(compute, memory) / longer) ** q) ** (1.0 / q))
