"""Attention of many new tokens per sequence (prefill, chunked prefill): a mechanistic time model.

    T = launch + [ T_unit^p + T_memory^p ]^(1/p) + cache write,   never below the limit
    T_unit = max( longest tile, sum of tiles / slots + tail * longest tile )
    tile   = item + cached tokens seen * rows * ( 4 d / (matrix_frac F) + exp_frac / (exp_per_clock clock) )

F is the matrix peak of one unit. The exponential of the softmax runs on few special-function units and is only partly
hidden behind the
products: it explains why small head dimensions are far from the matrix peak. The cache write (a separate kernel of the
engines) costs one
thread block per token, or the bytes moved. Theory, software facts and measured accuracy: docs/methods/attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from steelyard.cost.attention_decode import IO_BYTES, hot_share
from steelyard.cost.attention_facts import REFERENCE_DIM, Array, AttentionDevice, AttentionFacts

__all__ = ["PrefillParameters", "cache_write_time_s", "prefill_attention_limit_s", "prefill_attention_time_s"]

WRITE_THREADS: Final = 512.0
"""Elements of one token's keys a thread block of the cache-write kernel handles at once."""
WINDOW_SLACK_TILES: Final = 0.3
"""Extra KV tiles a window straddles beyond its length (fitted; alignment of the measured shapes)."""
SCORE_BYTES: Final = 4.0
"""Bytes of a score between kernels that are not one."""
SPLIT_MIN_CONTEXT: Final = 2.0
"""A short chunk's cache is split only when the context before it is at least this many times the chunk (assumed, not
measured)."""


@dataclass(frozen=True, slots=True)
class PrefillParameters:
    """Fitted parameters of prefill attention; defaults: all measured machines together."""

    launch_clocks: float = 10.0e3
    """Clocks from start to drain of an empty call inside a graph."""
    item_s: float = 4.5e-6
    """s: prologue and epilogue of one tile of query rows at head_dim 128."""
    item_dim_frac: float = 0.005
    """Of the item time that grows with head_dim."""
    item_fixed_frac: float = 0.75
    """Of the item time that does not shrink with the rows in the tile."""
    item_overlap: float = 1.7
    """Items in flight on a unit: divides the item time when there are many."""
    matrix_frac: float = 0.95
    """Of the matrix peak that the products of a tile sustain."""
    exp_frac: float = 0.9
    """Of the exponentials' time that is not hidden."""
    tail_frac: float = 0.5
    """Of the longest tile that the last wave adds."""
    dram_frac: float = 0.83
    """Of peak memory bandwidth."""
    l2_frac: float = 0.9
    """Of last-level cache bandwidth."""
    overlap_power: float = 2.5
    """Exponent that joins unit and memory time."""
    cache_write_s: float = 0.56e-6
    """s x unit per token of the cache-write kernel, for 512 elements or more of keys per token."""


def _visible(C0: Array, S: Array, window: Array) -> tuple[Array, Array]:
    """Mean and total-defining counts of keys seen by a query under a causal mask: (mean, longest)."""
    end = C0 + S
    full_mean = C0 + (S + 1) / 2
    reach = np.where(window > 0, np.minimum(window, end), end)
    growing = np.clip(reach - C0, 0.0, S)
    windowed_mean = (growing * C0 + growing * (growing + 1) / 2 + (S - growing) * reach) / np.maximum(S, 1.0)
    return np.asarray(np.where(window > 0, np.minimum(windowed_mean, full_mean), full_mean)), np.asarray(reach)


def prefill_attention_limit_s(
    batch: ArrayLike,
    new_tokens: ArrayLike,
    context_before: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: ArrayLike,
    causal: bool = True,
    window: ArrayLike = 0,
    device: AttentionDevice,
    computes_fp8: bool = True,
    value_dim: ArrayLike | None = None,
) -> Array:
    """Physical lower bound (s): max(2 batch heads (d_k + d_v) visible pairs / peak, bytes of q, o and the KV cache read
    / DRAM).

    Args as `prefill_attention_time_s`.
    """
    B, S, C0, H, K, D, bits, W = (
        np.asarray(x, dtype=np.float64)
        for x in (batch, new_tokens, context_before, heads, kv_heads, head_dim, kv_bits, window)
    )
    Dv = D if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    mean, reach = _visible(C0, S, W)
    pairs = S * (mean if causal else C0 + S)
    kept = np.where((W > 0) & causal, np.minimum(C0 + S, reach + S), C0 + S)
    operations = 2 * B * H * (D + Dv) * pairs
    traffic = B * S * H * (D + Dv) * IO_BYTES + B * K * kept * (D + Dv) * bits / 8
    return np.asarray(np.maximum(operations / device.peak_for(bits, computes_fp8), traffic / device.dram_bytes_per_s))


def cache_write_time_s(
    tokens: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: ArrayLike,
    device: AttentionDevice,
    parameters: PrefillParameters,
    facts: AttentionFacts,
    working_bytes: ArrayLike | None = None,
    value_dim: ArrayLike | None = None,
) -> Array:
    """Time (s) of the kernel that writes new keys and values into the paged cache: hypot(blocks, bytes).

    blocks = cache_write_s tokens min(elements, 512)/512 / slots; bytes = tokens (2 + bits/8) elements / bandwidth.

    Args:
        tokens: new tokens of all sequences. working_bytes: bytes the step touches, to decide what is hot in the cache
        (default: these).
        Others as `prefill_attention_time_s`.
    """
    T, K, D, bits = (np.asarray(x, dtype=np.float64) for x in (tokens, kv_heads, head_dim, kv_bits))
    Dv = D if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    elements = K * (D + Dv) / 2
    moved = 2 * T * elements * (IO_BYTES + bits / 8)
    working = moved if working_bytes is None else np.asarray(working_bytes, dtype=np.float64)
    converts = bits <= 8
    loops = np.minimum(elements, WRITE_THREADS) + np.where(converts, facts.cache_write_fp8_loop_frac, 0.0) * np.maximum(
        elements - WRITE_THREADS, 0.0
    )
    ratio = np.where(converts, facts.cache_write_fp8_ratio, 1.0)
    blocks = parameters.cache_write_s * ratio * T * loops / (WRITE_THREADS * device.slots)
    return np.asarray(np.hypot(blocks, moved * _seconds_per_byte(working, device, parameters)))


def _seconds_per_byte(working: Array, device: AttentionDevice, parameters: PrefillParameters) -> Array:
    hot = hot_share(working, device.l2_bytes, 4.0)
    return np.asarray(
        (1 - hot) / (parameters.dram_frac * device.dram_bytes_per_s)
        + hot / (parameters.l2_frac * device.l2_bytes_per_s)
    )


def prefill_attention_time_s(
    batch: ArrayLike,
    new_tokens: ArrayLike,
    context_before: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    kv_bits: ArrayLike,
    causal: bool = True,
    window: ArrayLike = 0,
    device: AttentionDevice,
    parameters: PrefillParameters,
    facts: AttentionFacts,
    value_dim: ArrayLike | None = None,
    cache_write: bool = True,
) -> Array:
    """Time (s) of prefill attention of one layer on one device, inside a graph.

    Args:
        batch: sequences, any shape; all arguments broadcast.
        new_tokens: query tokens per sequence; context_before: tokens already in the cache.
        heads, kv_heads: query heads and KV heads on this device.
        head_dim: elements of a key; `value_dim` of a value (default the same).
        kv_bits: bits per cached element.
        causal: each token sees itself and what came before; False: all new tokens.
        window: tokens a query sees, 0 for all.
        device, parameters, facts: spec sheet, fitted parameters, software facts.
        cache_write: include the kernel that writes the new keys and values into the paged cache.

    Returns:
        Array of the broadcast shape, seconds.

    Valid for head_dim 32 to 512; chunks over a long context (context_before > 0) were not measured.
    """
    P, F = parameters, facts
    B, S, C0, H, K, D, bits, W = (
        np.asarray(x, dtype=np.float64)
        for x in (batch, new_tokens, context_before, heads, kv_heads, head_dim, kv_bits, window)
    )
    Dv = D if value_dim is None else np.asarray(value_dim, dtype=np.float64)
    mean_dim = (D + Dv) / 2
    scale = mean_dim / REFERENCE_DIM
    group = H / K
    packed = group if F.prefill_packs_group else np.ones_like(group)
    eight = bits <= 8
    fp8 = eight & F.computes_fp8

    tile_rows = _by_dim(mean_dim, F.prefill_rows)
    if F.prefill_narrow:
        tile_rows = np.where(S * packed <= 16, 16.0, np.where(S * packed <= 64, 64.0, tile_rows))
    kv_tile = _by_dim(mean_dim, F.prefill_kv_tile) * np.where(fp8, F.prefill_fp8_tile_ratio, 1.0)
    rows = S * packed
    if F.prefill_few_rows:
        few = B * H / packed * np.ceil(rows / tile_rows) < device.units
        tile_rows = np.where(few, np.minimum(F.prefill_few_rows, tile_rows), tile_rows)
    filled = np.minimum(rows, tile_rows)
    computed = np.ceil(filled / F.prefill_sub_rows) * F.prefill_sub_rows if F.prefill_sub_rows else tile_rows
    items = B * H / packed * np.ceil(rows / tile_rows)

    keys = np.ceil((C0 + S) / kv_tile) * kv_tile
    span = np.minimum(S, tile_rows / packed)
    longest = keys
    mean = np.minimum(keys, C0 + (S + span) / 2 + kv_tile / 2) if causal else keys
    reach = np.minimum(np.where(W > 0, W + span + WINDOW_SLACK_TILES * kv_tile, np.inf), keys)
    windowed = (W > 0) & (reach < keys) & causal & (F.prefill_mask_ratio == 0)
    growing = np.clip(reach - C0, 0.0, S) / np.maximum(S, 1.0)
    seen = reach - growing * (reach - C0 - growing * S / 2) + growing * (span + kv_tile) / 2
    mean = np.where(windowed, np.minimum(mean, np.minimum(seen, reach)), mean)
    longest = np.where(windowed, reach, longest)

    unit_peak = device.peak_for(bits, F.computes_fp8) / device.units
    exponential = P.exp_frac * F.prefill_exp_ratio / (device.exp_per_clock * device.clock_hz)
    product = 4 * mean_dim / (np.minimum(P.matrix_frac * F.prefill_matrix_ratio, 1.0) * unit_peak)
    key_time = computed * (product + exponential) * np.where(mean_dim > 256, F.prefill_large_dim_ratio, 1.0)
    key_time = key_time + computed * F.prefill_pair_clocks / device.clock_hz * scale * 128.0 / kv_tile
    if F.prefill_fp8_token_clocks:
        key_time = key_time + np.where(
            eight, F.prefill_fp8_token_clocks / device.clock_hz * scale**F.prefill_fp8_dim_exponent, 0.0
        )
    if F.prefill_mask_ratio:
        key_time = key_time * np.where(W > 0, F.prefill_mask_ratio, 1.0)
    item = P.item_s * F.prefill_item_ratio * (1 - P.item_dim_frac + P.item_dim_frac * scale)
    item = item * (P.item_fixed_frac + (1 - P.item_fixed_frac) * filled / REFERENCE_DIM) + np.where(
        windowed, F.prefill_window_item_s, 0.0
    )

    work = items * (item / (P.item_overlap * device.slots) + mean * key_time / device.units)
    one = item + longest * key_time
    load = items / device.slots
    unit = np.maximum(work + P.tail_frac * one * np.minimum(load, 1.0), one)
    if F.splits_kv and np.any((C0 > SPLIT_MIN_CONTEXT * S) & (load < 0.5)):
        pieces = np.clip(
            np.floor(1 / np.maximum(load, 1e-9)), 1.0, np.maximum(1.0, np.minimum(F.max_splits, longest / kv_tile))
        )
        split = item + longest / pieces * key_time + item * F.combine_ratio
        unit = np.where((C0 > SPLIT_MIN_CONTEXT * S) & (load < 0.5), np.minimum(unit, np.maximum(split, work)), unit)

    io = B * S * H * (D + Dv) * IO_BYTES
    new = B * S * K * (D + Dv)
    read = (new + B * K * C0 * (D + Dv)) * bits / 8
    working = io + new * IO_BYTES + read
    memory = (io + read) * _seconds_per_byte(working, device, P)
    if F.prefill_scores_bytes:  # of all keys, masked ones too; one kernel's output at a time is looked for in the cache
        scores = B * H * S * (C0 + S)
        memory = memory + scores * F.prefill_scores_bytes * _seconds_per_byte(scores * SCORE_BYTES, device, P)
    p = P.overlap_power
    time = P.launch_clocks * F.prefill_launch_ratio / device.clock_hz + (unit**p + memory**p) ** (1 / p)
    if F.computes_fp8:
        quantised = io * 0.75 * _seconds_per_byte(working, device, P)
        time = time + np.where(eight, F.prefill_fp8_extra_s + quantised, 0.0)
    if cache_write:
        time = time + cache_write_time_s(
            B * S, K, D, kv_bits=bits, device=device, parameters=P, facts=F, working_bytes=working, value_dim=Dv
        )
    limit = prefill_attention_limit_s(
        B,
        S,
        C0,
        H,
        K,
        D,
        kv_bits=bits,
        causal=causal,
        window=W,
        device=device,
        computes_fp8=F.computes_fp8,
        value_dim=Dv,
    )
    return np.asarray(np.maximum(time, limit))


def _by_dim(dim: Array, values: tuple[float, float, float]) -> Array:
    small, usual, large = values
    return np.asarray(np.where(dim <= 64, small, np.where(dim <= 128, usual, large)))
