"""Multi-head latent attention (MLA): decode over the latent cache with absorbed projections, and prefill with full keys
and values.

Decode: all heads read one latent vector per token (values are the first `latent_dim` elements of the keys), so

    T = launch + min over s of [ (T_unit^p + T_memory^p)^(1/p) + (s > 1) combine ],   never below the limit
    T_unit   = waves(items s / slots) item + waves(items s / units) tokens/s token
    token    = 2 row_tile (2 latent + rope) / (matrix_frac F) + token_s
    T_memory = max( cache bytes / (dram_frac DRAM), reads of every row group / (l2_frac L2) )

with items = batch * ceil(heads / row_tile) and F the matrix peak of one unit. Pieces never get shorter than
MIN_SPLIT_TOKENS, so every candidate s, and with them the time, grows with context and batch. Prefill expands keys and
values per head and is ordinary causal attention with head_dim = nope + rope and another value dimension. Only the
attention kernel is priced here: the projections around it are dense products. Method and errors:
docs/methods/attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from steelyard.cost.attention_decode import IO_BYTES, SPLITS, hot_share, waves
from steelyard.cost.attention_facts import Array, AttentionDevice, AttentionFacts
from steelyard.cost.attention_prefill import PrefillParameters, prefill_attention_limit_s, prefill_attention_time_s

__all__ = [
    "MlaFacts",
    "MlaParameters",
    "mla_decode_limit_s",
    "mla_decode_time_s",
    "mla_prefill_limit_s",
    "mla_prefill_time_s",
]

MIN_SPLIT_TOKENS: Final = 64.0
"""Tokens of the latent cache the smallest piece keeps."""
ROPE_BITS: Final = 16.0
"""Bits of the rotary part of a key, which fp8 caches of some kernels keep in 16 bit."""
TILES_TOGETHER: Final = 6.0
"""Tiles per unit in flight or soon after each other: below it the tiles of one sequence find its latent in the last-
level cache (fitted)."""


NARROW_ROWS: Final = 16.0
"""Heads of a narrow tile: the smallest number of rows the matrix instructions of one warp group work on."""


@dataclass(frozen=True, slots=True)
class MlaFacts:
    """What one MLA decode kernel does. Defaults: FlashMLA and FlashAttention-3 on Hopper."""

    name: str = "flash_mla"
    row_tile: float = 64.0
    """Query heads of one tile; more heads read the latent again, from the last-level cache."""
    shares_reads: bool = True
    """Tiles of one sequence read the latent once (cluster multicast or paired tiles); False: every tile reads it
    again."""
    max_splits: float = 128.0
    items_per_unit: float = 1.0
    computes_fp8: bool = False
    """An 8-bit latent is multiplied in fp8; else it is converted and multiplied in 16 bit."""
    keeps_rope_16: bool = True
    """The rotary part of an 8-bit cache stays in 16 bit."""
    matrix_ratio: float = 1.0
    """Of the machine's sustained matrix fraction."""
    token_s: float = 0.0
    """s per cached token and tile that is neither bandwidth nor products (latency of short dependent loads)."""
    narrow_heads: float = 0.0
    """Up to this many heads, tiles hold NARROW_ROWS heads instead; 0: never."""
    narrow_again_frac: float = 0.0
    """Of the latent that each further narrow tile of a sequence fetches from memory again."""
    launch_ratio: float = 1.0
    """Of the machine's launch time (metadata and combine kernels of the call)."""


@dataclass(frozen=True, slots=True)
class MlaParameters:
    """Fitted parameters of MLA decode; defaults: all measured machines together."""

    launch_s: float = 8e-6
    """s: start and drain inside a graph."""
    item_s: float = 6e-6
    """s: prologue and epilogue of one tile."""
    combine_s: float = 3e-6
    """s: joining the pieces of a split cache."""
    matrix_frac: float = 0.8
    """Of the matrix peak sustained on padded rows."""
    dram_frac: float = 0.85
    """Of peak memory bandwidth."""
    l2_frac: float = 0.5
    """Of last-level cache bandwidth, for repeated reads."""
    overlap_power: float = 3.0
    """Exponent that joins unit and memory time."""
    wave_hardness: float = 0.3
    """1: whole waves; 0: perfectly balanced."""


def _token_bytes(latent: Array, rope: Array, bits: Array, facts: MlaFacts) -> Array:
    rope_bits = np.where(bits <= 8, ROPE_BITS, bits) if facts.keeps_rope_16 else bits
    return np.asarray((latent * bits + rope * rope_bits) / 8)


def mla_decode_limit_s(
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    *,
    latent_dim: ArrayLike = 512,
    rope_dim: ArrayLike = 64,
    kv_bits: ArrayLike,
    device: AttentionDevice,
    kv_hot: bool = False,
) -> Array:
    """Physical lower bound (s): max(latent cache bytes / DRAM, 2 batch heads context (2 latent + rope) / peak).

    Args as `mla_decode_time_s`; the 8-bit peak is assumed usable for an 8-bit cache.
    """
    B, C, H, R, Q, bits = (
        np.asarray(x, dtype=np.float64) for x in (batch, context, heads, latent_dim, rope_dim, kv_bits)
    )
    traffic = B * C * (R + Q) * bits / 8 + 0.0 * H
    if kv_hot:
        traffic = np.maximum(traffic - device.l2_bytes, 0.0)
    operations = 2 * B * H * C * (2 * R + Q)
    return np.asarray(
        np.maximum(traffic / device.dram_bytes_per_s, operations / device.peak_for(bits, computes_fp8=True))
    )


def mla_decode_time_s(
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    *,
    latent_dim: ArrayLike = 512,
    rope_dim: ArrayLike = 64,
    kv_bits: ArrayLike,
    device: AttentionDevice,
    parameters: MlaParameters,
    facts: MlaFacts,
    kv_hot: bool = False,
) -> Array:
    """Time (s) of the absorbed MLA decode kernel of one layer on one device.

    Args:
        batch: sequences; all arguments broadcast.
        context: tokens in the latent cache, the new one included.
        heads: query heads on this device.
        latent_dim, rope_dim: elements of the compressed latent and of the shared rotary key.
        kv_bits: bits per cached element.
        device, parameters, facts: spec sheet, fitted parameters, software facts.
        kv_hot: the cache was just read by the same kernel (benchmarks), so what fits the last-level cache is hot.

    Returns:
        Array of the broadcast shape, seconds.
    """
    P, F = parameters, facts
    B, C, H, R, Q, bits = (
        np.asarray(x, dtype=np.float64) for x in (batch, context, heads, latent_dim, rope_dim, kv_bits)
    )
    narrow = F.narrow_heads >= H
    rows = np.where(narrow, NARROW_ROWS, F.row_tile)
    groups = np.ceil(H / rows)
    items = B * groups
    unit_peak = device.peak_for(bits, F.computes_fp8) / device.units
    token = 2 * rows * (2 * R + Q) / (np.minimum(P.matrix_frac * F.matrix_ratio, 1.0) * unit_peak) + F.token_s

    cache = B * C * _token_bytes(R, Q, bits, F)
    hot = hot_share(cache, device.l2_bytes) if kv_hot else np.zeros_like(cache)
    dram = P.dram_frac * device.dram_bytes_per_s
    l2 = P.l2_frac * device.l2_bytes_per_s
    repeats = np.ones_like(groups) if F.shares_reads else groups
    apart = 1 - 1 / (1 + (items / (TILES_TOGETHER * device.slots)) ** 4)
    missed = 1 + (repeats - 1) * (1 - hot_share(cache, device.l2_bytes, 4.0)) * apart
    missed = missed + np.where(narrow, F.narrow_again_frac * (groups - 1), 0.0)
    io = B * H * (2 * R + Q) * IO_BYTES
    memory = np.maximum(cache * (1 - hot) * missed / dram, cache * repeats / l2) + io / dram
    p = P.overlap_power
    memory_p = memory**p

    def unit_time(pieces: float) -> Array:
        per_slot = items * (pieces / (device.slots * F.items_per_unit))
        per_unit = items * (pieces / (device.units * F.items_per_unit))
        piece = np.maximum(C / pieces, MIN_SPLIT_TOKENS) * token
        return np.asarray(waves(per_slot, P.wave_hardness) * P.item_s + waves(per_unit, P.wave_hardness) * piece)

    best: Array = (unit_time(1.0) ** p + memory_p) ** (1 / p)
    fastest = np.full(np.shape(best), np.inf)
    useful = 2 * float(np.max(C)) / MIN_SPLIT_TOKENS if C.size else 0.0
    for pieces in SPLITS:
        if pieces > min(F.max_splits, useful):
            break
        fastest = np.minimum(fastest, unit_time(pieces))
    best = np.minimum(best, (fastest**p + memory_p) ** (1 / p) + P.combine_s)
    limit = mla_decode_limit_s(B, C, H, latent_dim=R, rope_dim=Q, kv_bits=bits, device=device, kv_hot=kv_hot)
    return np.asarray(np.maximum(P.launch_s * F.launch_ratio + best, limit))


def mla_prefill_limit_s(
    batch: ArrayLike,
    new_tokens: ArrayLike,
    context_before: ArrayLike,
    heads: ArrayLike,
    *,
    nope_dim: ArrayLike = 128,
    rope_dim: ArrayLike = 64,
    value_dim: ArrayLike = 128,
    kv_bits: ArrayLike = 16,
    causal: bool = True,
    device: AttentionDevice,
) -> Array:
    """Physical lower bound (s) of MLA prefill: that of causal attention with head_dim = nope + rope."""
    dim = np.asarray(nope_dim, dtype=np.float64) + np.asarray(rope_dim, dtype=np.float64)
    return prefill_attention_limit_s(
        batch,
        new_tokens,
        context_before,
        heads,
        heads,
        dim,
        kv_bits=kv_bits,
        causal=causal,
        device=device,
        value_dim=value_dim,
    )


def mla_prefill_time_s(
    batch: ArrayLike,
    new_tokens: ArrayLike,
    context_before: ArrayLike,
    heads: ArrayLike,
    *,
    nope_dim: ArrayLike = 128,
    rope_dim: ArrayLike = 64,
    value_dim: ArrayLike = 128,
    kv_bits: ArrayLike = 16,
    causal: bool = True,
    device: AttentionDevice,
    parameters: PrefillParameters,
    facts: AttentionFacts,
) -> Array:
    """Time (s) of the attention kernel of MLA prefill: keys and values are expanded per head, then causal attention.

    Args:
        batch, new_tokens, context_before, heads: as `prefill_attention_time_s`.
        nope_dim, rope_dim: elements of a key without and with rotary position; value_dim: of a value.
        kv_bits: bits of the expanded keys and values (16 unless the kernel multiplies in fp8).
        device, parameters, facts: spec sheet, prefill parameters, software facts of the attention kernel.

    Returns:
        Array of the broadcast shape, seconds. The expansion (a dense product) is not included.
    """
    dim = np.asarray(nope_dim, dtype=np.float64) + np.asarray(rope_dim, dtype=np.float64)
    return prefill_attention_time_s(
        batch,
        new_tokens,
        context_before,
        heads,
        heads,
        dim,
        kv_bits=kv_bits,
        causal=causal,
        device=device,
        parameters=parameters,
        facts=facts,
        value_dim=value_dim,
        cache_write=False,
    )
