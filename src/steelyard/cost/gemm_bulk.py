"""Compiled twin of ``gemm_time_s`` for bulk pricing: one row at a time, no temporaries, same answer.

Needs numba. The formula is that of ``steelyard.cost.gemm``; ``tests/unit/test_gemm_model.py`` holds the two together.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import ArrayLike

from steelyard.cost.gemm import (
    CACHE_EDGE,
    DEFAULT_FACTS,
    DEFAULT_PARAMETERS,
    MIN_SPLIT_BYTES,
    PARTIAL_BYTES,
    QUANT_INPUT_BYTES,
    STEP_BYTES,
    Array,
    GemmDevice,
    GemmFacts,
    GemmParameters,
    candidates,
    flatten,
    sustained_compute_frac,
)

__all__ = ["gemm_time_bulk_s"]


def gemm_time_bulk_s(
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
) -> Array:
    """Same arguments, formula and result (seconds) as ``gemm_time_s``, to 1e-9 relative; a few microseconds a row."""
    shape, flat = flatten(m, n, k, weight_bits, act_bits, out_bits, groups)
    p, f, d = parameters, facts, device
    spec = np.array(
        [d.units, d.peak_ops_per_s, d.peak16_ops_per_s, d.dram_bytes_per_s, d.l2_bytes, d.l2_bytes_per_s, d.clock_hz]
    )
    fitted = np.array(
        [
            p.launch_cycles,
            sustained_compute_frac(d, p, f),
            p.dram_frac,
            p.step_s * f.step_frac,
            p.wave_hardness,
            p.overlap_power,
            p.split_s,
            p.operand_intensity,
            p.store_intensity,
            p.hot_frac,
            p.cache_frac,
        ]
    )
    software = np.array(
        [
            f.split_min_macs,
            f.gemv_step_divisor,
            float(f.quantises_activations),
            f.quant_launch_s,
            f.quant_row_s,
            f.quant_element_s,
        ]
    )
    out = np.empty(flat[0].size)
    sizes = np.ascontiguousarray(np.stack(flat))
    _rows(sizes, candidates(facts), spec, fitted, software, weights_hot, out)
    return out.reshape(shape)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _resident(data_bytes: float, capacity_bytes: float) -> float:
    if capacity_bytes <= 0.0:
        return 0.0
    share: float = 1.0 / (1.0 + (data_bytes / capacity_bytes) ** CACHE_EDGE)
    return share


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _rows(
    sizes: Array,
    table: Array,
    spec: Array,
    fitted: Array,
    software: Array,
    weights_hot: bool,
    out: Array,
) -> None:
    units, peak, peak16, dram, l2, l2_rate, clock = spec
    launch_cycles, frac, dram_frac, step_s, hardness, q, split_s, operand, store, hot_frac, cache_frac = fitted
    min_macs, gemv, quantises, quant_launch_s, quant_row_s, quant_element_s = software
    unit_ops = peak / units * frac
    unit16_ops = min(peak, peak16) / units
    for i in range(sizes.shape[1]):
        rows, cols, deep, g = sizes[0, i], sizes[1, i], sizes[2, i], sizes[6, i]
        if rows * cols * deep * g <= 0.0:
            out[i] = 0.0
            continue
        e_w, e_a, e_o = sizes[3, i] / 8.0, sizes[4, i] / 8.0, sizes[5, i] / 8.0
        weights = cols * deep * e_w * g
        moving = (rows * deep * e_a + rows * cols * e_o) * g
        cached = 0.0
        if weights_hot:
            cached = weights * _resident(weights, hot_frac * l2) + moving * _resident(moving, cache_frac * l2)
        t_memory = (weights + moving - cached) / (dram_frac * dram) + cached / l2_rate
        k_step = STEP_BYTES / e_a
        step = step_s if rows > 1.0 else step_s / gemv
        whole = rows * cols * deep < min_macs and (rows > 1.0 or gemv == 1.0)
        best = np.inf
        for j in range(table.shape[0]):
            tile_m, tile_n, split = table[j, 0], table[j, 1], table[j, 2]
            if rows <= table[j, 3] or rows > table[j, 4] or cols <= table[j, 5] or cols > table[j, 6]:
                continue
            if split > 1.0 and (whole or deep * e_a < split * MIN_SPLIT_BYTES):
                continue
            used_m, used_n = min(rows, tile_m), min(cols, tile_n)
            unit = 2.0 * k_step / unit_ops * tile_m * tile_n
            unit = max(unit, (used_m * e_a + used_n * e_w) * (k_step * operand / unit16_ops))
            unit = math.ceil(deep / split / k_step) * max(unit, step)
            unit += used_m * used_n * (e_o * store / unit16_ops) * (2.0 if split > 1.0 else 1.0)
            load = math.ceil(rows / tile_m) * math.ceil(cols / tile_n) * split * (g / units)
            t_units = unit * (hardness * math.ceil(load) + (1.0 - hardness) * max(1.0, load))
            longer = max(t_units, t_memory)
            if longer >= best:
                continue
            ratio = min(t_units, t_memory) / longer
            time = longer * (1.0 + ratio**q) ** (1.0 / q)
            if split > 1.0:
                time += split_s + PARTIAL_BYTES / l2_rate * (rows * cols * g) * split
            best = min(best, time)
        time = best + launch_cycles / clock
        if quantises > 0.0:
            elements = rows * g * deep
            traffic = elements * (QUANT_INPUT_BYTES + e_a)
            if weights_hot:
                traffic *= 1.0 - _resident(elements * (2.0 + e_a), cache_frac * l2)
            per_row = max(quant_row_s, quant_element_s * deep)
            time += quant_launch_s + max(rows * g / units * per_row, traffic / (dram_frac * dram))
        compute = 2.0 * rows * cols * deep * g / peak
        rate = max(dram, l2_rate) if weights_hot else dram
        out[i] = max(time, max(compute, (weights + moving) / rate))
