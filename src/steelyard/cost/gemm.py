"""Time of a dense matrix multiply C[m,n] = A[m,k] W[k,n] on a machine of parallel compute units.

    time = launch + min over (tile, split) of [ (T_units^q + T_memory^q)^(1/q) + T_split ] + T_quantise

and never below the roofline. T_units: output tiles in waves over the units, each the slowest of matrix engine, operand
feed and pipeline latency, plus the store of the tile. T_memory: compulsory traffic at sustained bandwidth.
Theory and measured accuracy: ``docs/methods/gemm.md``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.errors import UnknownName

__all__ = [
    "DEFAULT_FACTS",
    "DEFAULT_PARAMETERS",
    "GemmDevice",
    "GemmFacts",
    "GemmParameters",
    "candidates",
    "gemm_facts",
    "gemm_roofline_s",
    "gemm_time_s",
    "library_facts",
    "sustained_compute_frac",
]

Array = NDArray[np.float64]

STEP_BYTES = 128.0
"""Bytes of k one pipeline step loads per row: one swizzled shared-memory line on NVIDIA parts (CUTLASS)."""
MIN_SPLIT_BYTES = 256.0
"""A split keeps at least this many bytes of k per row (two pipeline steps)."""
CACHE_EDGE = 8.0
"""Exponent of the edge between data that stays in the last-level cache and data that does not (fit: sharp)."""
PARTIAL_BYTES = 8.0
"""Traffic per partial sum of a split k: a 4-byte write and a 4-byte read."""
QUANT_INPUT_BYTES = 4.0
"""The activation-quantisation kernel reads its 16-bit input twice: once for the scale, once to convert."""
CHUNK_ELEMENTS = 1 << 14
"""Elements of one temporary array: a dozen of them stay in a processor's second-level cache."""


@dataclass(frozen=True, slots=True)
class GemmDevice:
    """Spec-sheet facts of the machine a GEMM runs on, SI units."""

    units: float
    """Streaming multiprocessors, compute units or cores."""
    peak_ops_per_s: float
    """Dense peak of the format computed in."""
    peak16_ops_per_s: float
    """Dense peak of the 16-bit matrix engine."""
    dram_bytes_per_s: float
    """Peak bandwidth of main memory."""
    l2_bytes: float
    """Last-level on-chip cache; 0 if none."""
    l2_bytes_per_s: float
    """Its bandwidth (may be an estimate)."""
    copy_engine: str
    """``async`` (TMA with wgmma or tcgen05), ``mma_sync`` (loads by the computing threads) or ``other``."""
    clock_hz: float = 1.8e9
    """Clock the peak is quoted at; sets the launch time."""
    tdp_w: float = 0.0
    """Board power limit; 0 when unknown, and then power limits nothing."""
    feed16_ops_per_s: float = 0.0
    """16-bit rate the operand and store paths are built for, above a peak that is capped; 0: that peak."""


@dataclass(frozen=True, slots=True)
class GemmParameters:
    """Fitted utilisation parameters, normalised to the spec sheet. Defaults: all five measured GPUs together."""

    launch_cycles: float = 4500.0
    """Clock cycles to start, fill and drain a kernel inside a captured graph."""
    compute_frac: float = 0.83
    """Share of the peak the matrix engine sustains inside a tile."""
    ops_per_joule: float = 1e15
    """Operations the board sustains per joule: 16-bit ones, or those of a wider format. Large: never power-limited."""
    dram_frac: float = 0.82
    """Share of the peak memory bandwidth a long stream sustains."""
    step_s: float = 120e-9
    """s per pipeline step of STEP_BYTES of k when latency, not throughput, limits it."""
    wave_hardness: float = 0.3
    """1: tiles run in whole waves over the units; 0: the last wave costs nothing extra (persistent or stream-K)."""
    overlap_power: float = 2.5
    """Exponent q joining unit time and memory time; 1: no overlap, large: perfect overlap."""
    split_s: float = 2.5e-6
    """s: fixed cost of splitting k (a reduction pass)."""
    operand_intensity: float = 58.0
    """16-bit operations per operand byte a tile must reach to feed the engine at its peak."""
    store_intensity: float = 200.0
    """16-bit operations a unit could do in the time it stores one byte of output."""
    hot_frac: float = 0.07
    """Weights below this share of the last-level cache stay there between repeats (benchmarks only)."""
    cache_frac: float = 0.8
    """Activations below this share of the last-level cache stay there between repeats (benchmarks only)."""


@dataclass(frozen=True, slots=True)
class GemmFacts:
    """What the software kernel can do. Table: ``catalogue/kernels/gemm.toml``."""

    name: str
    tiles: tuple[tuple[float, float, float, float, float, float], ...]
    """(rows, columns, m_over, m_up_to, n_over, n_up_to): output tiles and the open-closed range of m and n of each."""
    split: tuple[int, ...] = (1,)
    """Numbers of pieces k may be cut into."""
    split_min_macs: float = 0.0
    """Smaller products (m n k) are never split."""
    gemv_step_divisor: float = 1.0
    """At m = 1, k is walked this many times faster by a matrix-vector kernel."""
    step_frac: float = 1.0
    """Of the machine's step latency: less where the kernel keeps more pipeline stages in flight."""
    quantises_activations: bool = False
    """A separate kernel converts 16-bit activations first. Replace by False where it is fused into the op before."""
    quant_launch_s: float = 0.0
    """s: that kernel's fixed cost."""
    quant_row_s: float = 0.0
    """s x unit per row: its least cost of a row."""
    quant_element_s: float = 0.0
    """s x unit per element: its cost of long rows."""
    dequantises_weights: bool = False
    """Weights are widened to the activation format inside the kernel."""
    dequant_compute_frac: float = 1.0
    """Share of the matrix engine left when it does."""
    stream_frac: float = 1.0
    """Of the bandwidth that 16-bit products sustain, what this kernel's weights arrive at."""
    rows_per_pass: float = np.inf
    """Rows that share one walk over the weights: for each further walk, what the last-level cache cannot hold is read
    again."""


@cache
def _kernel_file() -> Mapping[str, Any]:
    text = resources.files("steelyard.catalogue").joinpath("kernels/gemm.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _facts_table() -> Mapping[str, GemmFacts]:
    table: dict[str, GemmFacts] = {}
    known = {f.name for f in fields(GemmFacts)} - {"name", "tiles", "split"}
    for name, entry in _kernel_file().items():
        if name not in ("sources", "guess", "library"):
            ranges = [(*t, 0.0, 0.0, 0.0, 0.0)[:6] for t in entry["tiles"]]
            tiles = tuple((r, c, lo, hi or np.inf, n_lo, n_hi or np.inf) for r, c, lo, hi, n_lo, n_hi in ranges)
            rest = {key: value for key, value in entry.items() if key in known}
            table[name] = GemmFacts(name=name, tiles=tiles, split=tuple(entry["split"]), **rest)
    return table


def gemm_facts(name: str) -> GemmFacts:
    """The facts of one software kernel, such as ``cublas`` or ``cutlass_fp8``.

    Raises:
        UnknownName: no such kernel in ``catalogue/kernels/gemm.toml``.
    """
    table = _facts_table()
    if name not in table:
        raise UnknownName("GEMM kernel", name, table)
    return table[name]


def library_facts(family: str, weight_bits: float, act_bits: float) -> GemmFacts:
    """The kernel an architecture family's usual library runs for these widths, e.g. Marlin for 4-bit weights on Hopper.

    Args:
        family: architecture family of the machine catalogue; an unknown one runs ``blas``.
        weight_bits, act_bits: bits of one element; scales may be included.
    """
    if weight_bits < 0.75 * act_bits:
        kind = "weight_only"
    else:
        kind = "bits16" if act_bits > 12.0 else "bits8" if act_bits > 6.0 else "bits4"
    entry = _kernel_file()["library"].get(family, {})
    return gemm_facts(entry.get(kind) or entry.get("bits16", "blas"))


DEFAULT_FACTS = gemm_facts("cublas")
DEFAULT_PARAMETERS = GemmParameters()


@lru_cache(maxsize=128)
def candidates(facts: GemmFacts) -> Array:
    """The kernel's choices as an array (choices, 7): tile rows and columns, split, then the ranges of m and n."""
    return np.array([(*tile[:2], s, *tile[2:]) for tile in facts.tiles for s in facts.split], dtype=np.float64)


def _wide_peak(device: GemmDevice) -> float:
    """Peak at 16 bits, or in the format itself where that is wider: what operand and store paths are built for."""
    return min(device.peak_ops_per_s, device.peak16_ops_per_s)


def sustained_compute_frac(device: GemmDevice, parameters: GemmParameters, facts: GemmFacts = DEFAULT_FACTS) -> float:
    """Share of the peak the engine sustains: min(compute_frac, ops_per_joule x tdp_w / min(peak, peak16))."""
    frac = parameters.compute_frac
    if device.tdp_w > 0.0:
        frac = min(frac, parameters.ops_per_joule * device.tdp_w / _wide_peak(device))
    return frac * (facts.dequant_compute_frac if facts.dequantises_weights else 1.0)


def flatten(*values: ArrayLike) -> tuple[tuple[int, ...], list[Array]]:
    """Broadcast sizes against each other; returns the common shape and flat float arrays."""
    arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values))
    return arrays[0].shape, [a.ravel() for a in arrays]


def gemm_roofline_s(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    weight_bits: ArrayLike,
    act_bits: ArrayLike,
    out_bits: ArrayLike,
    device: GemmDevice,
    groups: ArrayLike = 1,
    weights_hot: bool = False,
    accumulates: bool = False,
) -> Array:
    """Physical limit: max(2 m n k groups / peak, (weights + activations + outputs) / bandwidth).

    Args:
        m, n, k: rows of activations, outputs, reduction; any shapes that broadcast.
        weight_bits, act_bits, out_bits: width of one element of W, A and C.
        device: spec sheet.
        groups: independent products of that size in one kernel.
        weights_hot: data may come from the last-level cache, as in a benchmark that repeats one product.
        accumulates: the product is added to what C holds, which is read as well.

    Returns:
        Seconds, of the broadcast shape.
    """
    shape, (m_, n_, k_, wb, ab, ob, g) = flatten(m, n, k, weight_bits, act_bits, out_bits, groups)
    compute = 2.0 * m_ * n_ * k_ * g / device.peak_ops_per_s
    traffic = g * (n_ * k_ * wb + m_ * k_ * ab + m_ * n_ * ob * (2.0 if accumulates else 1.0)) / 8.0
    bandwidth = max(device.dram_bytes_per_s, device.l2_bytes_per_s) if weights_hot else device.dram_bytes_per_s
    return np.asarray(np.maximum(compute, traffic / bandwidth).reshape(shape))


def gemm_time_s(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    weight_bits: ArrayLike,
    act_bits: ArrayLike,
    out_bits: ArrayLike,
    device: GemmDevice,
    parameters: GemmParameters = DEFAULT_PARAMETERS,
    facts: GemmFacts = DEFAULT_FACTS,
    groups: ArrayLike = 1,
    weights_hot: bool = False,
    accumulates: bool = False,
) -> Array:
    """Time of one GEMM, kernel only, inside a captured graph (no host launch overhead).

    For tile (r, c) and split s, with e_ = bytes per element, k' = k/s rounded up to whole steps, F, F16 = peak of one
    unit in the format and in 16 bits (F16 = F for wider formats):
    unit    = max(2 r c k' / (frac F), (min(m,r) e_a + min(n,c) e_w) k' I / F16, steps(k') step_s)
              + min(m,r) min(n,c) e_o J / F16,  the store, twice where k is split
    waves   = h ceil(U) + (1-h) max(1, U),  U = ceil(m/r) ceil(n/c) s groups / units
    T_units = waves unit;  T_memory = bytes / (dram_frac bandwidth);  T_split = split_s + 8 s m n groups / L2 bandwidth.

    Args:
        m, n, k: rows of activations, outputs, reduction; any shapes that broadcast. Zero m, n or k costs nothing.
        weight_bits, act_bits, out_bits: width of one element; scales of block formats count (nvfp4: 4.5).
            Where the kernel dequantises weights, act_bits is the width computed in.
        device, parameters, facts: spec sheet, fitted utilisation, software.
        groups: independent products of that size in one kernel.
        weights_hot: benchmark conditions: small weights and activations are found in the last-level cache.
            False for serving.
        accumulates: the product is added to what C holds (a gradient), which is read as well.

    Returns:
        Seconds, of the broadcast shape; never below ``gemm_roofline_s``.

    Validity: m, n, k from 1 to 65536, rows aligned to 16 bytes, power and clocks of a short benchmark.
    Source: fitted to kernel times of A100, L40S, H100, H200 and B200; see ``docs/methods/gemm.md``.
    """
    given = (m, n, k, weight_bits, act_bits, out_bits, groups)
    shape, flat = flatten(*given)
    constant = [np.size(x) == 1 for x in given]
    table = candidates(facts)
    rows = flat[0].size
    out = np.empty(rows)
    chunk = max(1, CHUNK_ELEMENTS // len(table))
    for start in range(0, rows, chunk):
        piece = slice(start, start + chunk)
        part = [a[slice(1) if one else piece, None] for a, one in zip(flat, constant, strict=True)]
        out[piece] = _best_s(part, table, device, parameters, facts, weights_hot, accumulates)
    limit = gemm_roofline_s(
        m,
        n,
        k,
        weight_bits=weight_bits,
        act_bits=act_bits,
        out_bits=out_bits,
        device=device,
        groups=groups,
        weights_hot=weights_hot,
        accumulates=accumulates,
    )
    work = (flat[0] * flat[1] * flat[2] * flat[6] > 0.0).reshape(shape)
    return np.asarray(np.where(work, np.maximum(out.reshape(shape), limit), 0.0))


def _resident(data_bytes: Array, capacity_bytes: float) -> Array:
    """Share of some data found in a cache: 1 / (1 + (bytes / capacity)^edge)."""
    if capacity_bytes <= 0.0:
        return np.zeros_like(data_bytes)
    return np.asarray(1.0 / (1.0 + (data_bytes / capacity_bytes) ** CACHE_EDGE))


def _best_s(
    columns: list[Array],
    table: Array,
    device: GemmDevice,
    p: GemmParameters,
    facts: GemmFacts,
    weights_hot: bool,
    accumulates: bool,
) -> Array:
    """Time of the best candidate for each row of ``columns`` (each (rows, 1), or (1, 1) where all rows have the same);
    shape (rows,), or (1,) where no column differs between rows.
    """
    m, n, k, weight_bits, act_bits, out_bits, groups = columns
    tile_m, tile_n, split, m_over, m_up_to, n_over, n_up_to = table.T
    weight_bytes, act_bytes, out_bytes = weight_bits / 8.0, act_bits / 8.0, out_bits / 8.0
    unit_ops = device.peak_ops_per_s / device.units * sustained_compute_frac(device, p, facts)
    unit16_ops = max(_wide_peak(device), device.feed16_ops_per_s) / device.units
    step_s = p.step_s * facts.step_frac / np.where(m > 1.0, 1.0, facts.gemv_step_divisor)
    used_m, used_n = np.minimum(m, tile_m), np.minimum(n, tile_n)

    k_step = STEP_BYTES / act_bytes
    steps = np.ceil(k / split / k_step)
    unit = 2.0 * k_step / unit_ops * tile_m * tile_n
    unit = np.maximum(unit, (used_m * act_bytes + used_n * weight_bytes) * (k_step * p.operand_intensity / unit16_ops))
    unit = steps * np.maximum(unit, step_s)
    unit += used_m * used_n * (out_bytes * p.store_intensity / unit16_ops) * np.where(split > 1.0, 2.0, 1.0)
    load = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split * (groups / device.units)
    t_units = unit * (p.wave_hardness * np.ceil(load) + (1.0 - p.wave_hardness) * np.maximum(1.0, load))

    weights = n * k * weight_bytes * groups
    passes = np.maximum(np.ceil(m / facts.rows_per_pass), 1.0)
    again = (passes - 1.0) * np.maximum(weights - device.l2_bytes, 0.0)
    moving = (m * k * act_bytes + m * n * out_bytes * (2.0 if accumulates else 1.0)) * groups
    cached = np.zeros_like(weights)
    if weights_hot:
        cached = weights * _resident(weights, p.hot_frac * device.l2_bytes)
        cached = cached + moving * _resident(moving, p.cache_frac * device.l2_bytes)
    weights_again = (weights + again) / facts.stream_frac
    t_memory = (weights_again + moving - cached) / (
        p.dram_frac * device.dram_bytes_per_s
    ) + cached / device.l2_bytes_per_s

    partials = PARTIAL_BYTES / device.l2_bytes_per_s * (m * n * groups) * split
    reducing = np.where(split > 1.0, p.split_s + partials, 0.0)
    small = (m * n * k < facts.split_min_macs) & ((m > 1.0) | (facts.gemv_step_divisor == 1.0))
    too_short = (split > 1.0) & ((k * act_bytes < split * MIN_SPLIT_BYTES) | small)
    unused = (m <= m_over) | (m > m_up_to) | (n <= n_over) | (n > n_up_to)
    longer = np.where(too_short | unused, np.inf, np.maximum(t_units, t_memory))
    # the two overlap to between ``longer`` and 2^(1/q) times that: most candidates are out before a power is taken
    most = (longer * (2.0 ** (1.0 / p.overlap_power) * (1.0 + 1e-9)) + reducing).min(axis=1, keepdims=True)
    time = np.full(longer.shape, np.inf)
    near = np.nonzero(longer + reducing <= most)
    units, memory, reducing = (np.broadcast_to(x, longer.shape)[near] for x in (t_units, t_memory, reducing))
    ratio = np.minimum(units, memory) / np.maximum(longer[near], np.finfo(np.float64).tiny)
    time[near] = longer[near] * (1.0 + ratio**p.overlap_power) ** (1.0 / p.overlap_power) + reducing
    best = time.min(axis=1) + p.launch_cycles / device.clock_hz
    if facts.quantises_activations:
        best = best + _quantise_s(m * groups, k, act_bytes, device, p, facts, weights_hot)[:, 0]
    return np.asarray(best)


def _quantise_s(
    rows: Array, k: Array, act_bytes: Array, device: GemmDevice, p: GemmParameters, facts: GemmFacts, weights_hot: bool
) -> Array:
    """Activation-quantisation kernel: launch + max(rows/units max(row, k element), bytes / bandwidth)."""
    elements = rows * k
    traffic = elements * (QUANT_INPUT_BYTES + act_bytes)
    if weights_hot:
        traffic = traffic * (1.0 - _resident(elements * (2.0 + act_bytes), p.cache_frac * device.l2_bytes))
    per_row = np.maximum(facts.quant_row_s, facts.quant_element_s * k)
    slower = np.maximum(rows / device.units * per_row, traffic / (p.dram_frac * device.dram_bytes_per_s))
    return np.asarray(facts.quant_launch_s + slower)
