"""Attention of one new token per sequence over a KV cache (decode): a mechanistic time model.

    T = launch + sequences + copy + min over s of [ (T_unit^p + T_memory^p)^(1/p) + (s > 1) combine ]
    T_unit   = waves(items s / slots) item + waves(items s / units) ceil(tokens / s / tile) tile token
    T_memory = cold bytes / (dram_frac DRAM) + hot bytes / (l2_frac L2)

never below the limit. `items` is batch * kv_heads * ceil(group / row_tile) when the kernel packs a group's query heads
into one tile, batch * heads when it does not; an unpacked kernel reads the cache once per query head as soon as one KV
head of the whole batch no longer fits the last-level cache.
Theory, software facts and measured accuracy: docs/methods/attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from steelyard.cost.attention_facts import (
    HOT_FRAC,
    HOT_SHARPNESS,
    KV_TILE_ELEMENTS,
    REFERENCE_DIM,
    Array,
    AttentionDevice,
    AttentionFacts,
)

__all__ = ["DecodeParameters", "decode_attention_limit_s", "decode_attention_time_s"]

SPLITS: Final = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)
"""Candidate numbers of pieces a sequence's cache is cut into."""
WIDE_GROUP: Final = 16.0
"""Query heads per KV head above which kernels switch to a larger row tile."""
COPY_LAUNCH_FRAC: Final = 0.95
"""Launch of the output copy relative to that of the attention kernel (A100 and L40S agree)."""
IO_BYTES: Final = 2.0
"""Bytes per element of queries and outputs."""


@dataclass(frozen=True, slots=True)
class DecodeParameters:
    """Fitted parameters of decode attention; defaults: all measured machines together."""

    launch_clocks: float = 12.6e3
    """Clocks from start to drain of an empty call inside a graph (constant in clocks from A100 to B200)."""
    item_s: float = 2.0e-6
    """s: prologue and epilogue of one tile, a chain of memory latencies (constant in seconds), at head_dim 128."""
    item_dim_frac: float = 0.26
    """Of the item time that grows with head_dim."""
    row_s: float = 17e-9
    """s x unit per query row of a tile, at head_dim 128."""
    combine_s: float = 2.0e-6
    """s: joining the pieces of a split cache."""
    matrix_frac: float = 0.85
    """Of the 16-bit matrix peak a decode tile sustains on its padded rows."""
    dram_frac: float = 0.86
    """Of peak memory bandwidth a long read sustains."""
    l2_frac: float = 0.8
    """Of last-level cache bandwidth."""
    hot_frac: float = 0.85
    """Of the last-level cache that repeated reads find hot (two-partition caches hold some lines twice)."""
    overlap_power: float = 1.75
    """Exponent that joins unit and memory time; large: perfect overlap; 1: none."""
    in_flight: float = 1.1
    """Items per unit before a further one costs time."""
    wave_hardness: float = 0.5
    """1: whole waves; 0: perfectly balanced."""


def hot_share(
    working_bytes: Array, l2_bytes: float, sharpness: float = HOT_SHARPNESS, hot_frac: float = HOT_FRAC
) -> Array:
    """Part of repeated reads that hit the last-level cache: 1 / (1 + (bytes / (hot_frac L2))^sharpness)."""
    capacity = max(hot_frac * l2_bytes, 1.0)
    return np.asarray(1.0 / (1.0 + np.minimum(working_bytes / capacity, 1e6) ** sharpness))


def waves(load: Array, hardness: float) -> Array:
    """Rounds that `load` tiles per place take: hardness ceil(load) + (1 - hardness) max(load, 1)."""
    return np.asarray((1 - hardness) * np.maximum(load, 1.0) + hardness * np.ceil(load))


def decode_attention_limit_s(
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: ArrayLike,
    window: ArrayLike = 0,
    device: AttentionDevice,
    computes_fp8: bool = True,
    kv_hot: bool = False,
    value_dim: ArrayLike | None = None,
    queries: ArrayLike = 1.0,
) -> Array:
    """Physical lower bound (s): max(bytes of the visible cache, queries and outputs / DRAM, 2 batch heads visible (d_k
    + d_v) / peak).

    Args as `decode_attention_time_s`. With `kv_hot` the last-level cache may hold its capacity of the cache already.
    """
    B, C, H, K, D, bits, W, Q = (
        np.asarray(x, dtype=np.float64) for x in (batch, context, heads, kv_heads, head_dim, kv_bits, window, queries)
    )
    Dv = D if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    span = np.where(W > 0, np.minimum(C, W), C)
    cache = B * K * span * (D + Dv) * bits / 8
    if kv_hot:
        cache = np.maximum(cache - device.l2_bytes, 0.0)
        io: Array = np.zeros_like(cache)
    else:
        io = B * H * Q * (D + Dv) * IO_BYTES
    pairs = np.maximum(Q * span - Q * (Q - 1) / 2, span)  # a query does not see the ones after it
    operations = 2 * B * H * pairs * (D + Dv)
    return np.asarray(
        np.maximum((cache + io) / device.dram_bytes_per_s, operations / device.peak_for(bits, computes_fp8))
    )


def decode_attention_time_s(
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: ArrayLike,
    window: ArrayLike = 0,
    device: AttentionDevice,
    parameters: DecodeParameters,
    facts: AttentionFacts,
    kv_hot: bool = False,
    value_dim: ArrayLike | None = None,
    queries: ArrayLike = 1.0,
) -> Array:
    """Time (s) of decode attention of one layer on one device, inside a graph.

    Args:
        batch: sequences, any shape; all arguments broadcast.
        context: tokens in the cache, the new one included (mean over the batch).
        heads, kv_heads: query heads and KV heads on this device.
        head_dim: elements of a key; `value_dim` of a value (default the same).
        kv_bits: bits per cached element.
        window: tokens a query sees, 0 for all.
        device, parameters, facts: spec sheet, fitted parameters, software facts.
        kv_hot: the cache was just read by the same kernel (benchmarks that repeat one call), so what fits the last-
        level cache is hot.
        queries: new tokens per sequence that read the cache together (verification of guessed tokens): rows of the same
            tile, as kernels that pack a group's heads do with them; unpacked kernels put a head's queries into one.

    Returns:
        Array of the broadcast shape, seconds.

    Valid for head_dim 32 to 512, context >= 1.
    """
    P, F = parameters, facts
    B, C, H, K, D, bits, W, Q = (
        np.asarray(x, dtype=np.float64) for x in (batch, context, heads, kv_heads, head_dim, kv_bits, window, queries)
    )
    Dv = D if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    mean_dim = (D + Dv) / 2
    scale = mean_dim / REFERENCE_DIM
    windowed = W > 0
    group = H / K
    span = np.where(windowed, np.minimum(C, W), C)

    packed = np.where(windowed, F.packs_group_windowed, F.packs_group)
    together = np.where(packed, group, 1.0) * Q
    tile_rows = np.where(np.where(Q > 1, together, group) <= F.narrow_group, min(16.0, F.row_tile), F.row_tile)
    rows = np.minimum(together, F.row_tile)
    items = np.where(packed, B * K, B * H) * np.ceil(together / F.row_tile)

    item = (
        P.item_s
        / F.items_per_slot
        * (1 - P.item_dim_frac + P.item_dim_frac * scale)
        * (1 + F.wide_group_frac * (rows > WIDE_GROUP))
    )
    item = item + rows * P.row_s * F.row_ratio * scale + np.where(windowed & (C > W), F.window_item_s, 0.0)
    padded = tile_rows / max(device.feed16_ops_per_s, device.peak_ops_per_s)
    token = 4 * np.maximum(padded, rows / device.peak_ops_per_s) * mean_dim * device.units / P.matrix_frac
    token = np.maximum(token, F.token_clocks / device.clock_hz)
    token = np.where(
        bits <= 8, np.hypot(token, F.fp8_token_clocks / device.clock_hz * scale**F.fp8_dim_exponent), token
    )
    if F.kv_tile:
        kv_tile: Array = np.full(np.shape(mean_dim), F.kv_tile)
        loaded = kv_tile * (np.ceil(span / kv_tile) + (windowed & (C > W)))
    else:
        kv_tile = np.clip(KV_TILE_ELEMENTS / mean_dim, 64.0, 256.0)
        loaded = np.where(windowed, np.minimum(C, np.ceil(span / kv_tile) * kv_tile), C)
    tile_time = kv_tile * token
    tiles = loaded / kv_tile

    hardness = 0.0 if F.balanced else P.wave_hardness

    def unit_time(pieces: float) -> Array:
        per_slot = waves(items * (pieces / (device.slots * P.in_flight)), hardness)
        per_unit = waves(items * (pieces / (device.units * P.in_flight)), hardness)
        chain = np.ceil(tiles / pieces) * tile_time
        full = P.in_flight * (per_slot * item + per_unit * chain)
        return np.asarray(np.maximum(full, item + F.alone_ratio * chain) if F.alone_ratio > 1 else full)

    cache = B * K * loaded * (D + Dv) * bits / 8
    per_head_hot = hot_share(cache / K, device.l2_bytes, 4.0, P.hot_frac)
    dram_reads = np.where(packed, 1.0, 1 + (group - 1) * (1 - per_head_hot))
    hot = hot_share(cache, device.l2_bytes, hot_frac=P.hot_frac) if kv_hot else np.zeros_like(cache)
    dram = P.dram_frac * device.dram_bytes_per_s
    l2 = P.l2_frac * device.l2_bytes_per_s
    io = B * H * Q * (D + Dv) * IO_BYTES
    memory = (
        cache * (dram_reads * (1 - hot) / dram + (hot + np.where(packed, 0.0, group - dram_reads)) / l2) + io / dram
    )

    p = P.overlap_power
    memory_p = memory**p
    best: Array = (unit_time(1.0) ** p + memory_p) ** (1 / p)
    may_split = np.where(windowed, F.splits_kv_windowed, F.splits_kv) & (F.splits_single_group | (group > 1))
    may_split = may_split & (F.splits_above < C)
    if np.any(may_split & (tiles >= 1)):
        fastest = np.full(np.broadcast_shapes(best.shape, tiles.shape), np.inf)
        largest = float(np.max(tiles)) * 2
        for pieces in SPLITS:
            if pieces > min(F.max_splits, largest):
                break
            fastest = np.minimum(fastest, np.where(may_split, unit_time(pieces), np.inf))
        best = np.minimum(best, (fastest**p + memory_p) ** (1 / p) + P.combine_s * F.combine_ratio)

    launch = P.launch_clocks / device.clock_hz
    time = launch * F.launch_ratio + best
    if F.sequence_s:
        time = time + F.sequence_s * np.minimum(B, F.sequence_limit)
    if F.copies_output:
        time = time + np.where(packed & (group > 1) & (B > 1) & (K > 1), COPY_LAUNCH_FRAC * launch, 0.0)
    if F.computes_fp8 and F.fp8_extra_s:
        time = time + np.where(bits <= 8, F.fp8_extra_s, 0.0)
    limit = decode_attention_limit_s(
        B,
        C,
        H,
        K,
        D,
        kv_bits=bits,
        window=W,
        device=device,
        computes_fp8=F.computes_fp8,
        kv_hot=kv_hot,
        value_dim=Dv,
        queries=Q,
    )
    return np.asarray(np.maximum(time, limit))
