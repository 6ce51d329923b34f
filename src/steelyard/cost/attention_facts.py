"""What the attention models know before any parameter: the device's spec sheet and the software kernel's facts.

Hardware parameters carry over between machines; what the kernel does (packs the query heads of a group, splits the KV
cache, converts
fp8, windows) does not follow from the machine and is stated apart, in `catalogue/kernels/attention.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "AttentionDevice", "AttentionFacts"]

Array = NDArray[np.float64]

REFERENCE_DIM: Final = 128.0
"""Head dimension at which item times are quoted (elements)."""
KV_TILE_ELEMENTS: Final = 16384.0
"""Elements of K one tile holds: kernels keep tokens x head_dim near this to fit shared memory (128 x 128, 256 x 64, 64
x 256)."""
EXPONENTIALS_PER_CLOCK: Final = 16.0
"""Exponentials per clock and unit: the special-function units of an NVIDIA SM. Source: CUDA C++ Programming Guide,
arithmetic throughput."""
UNIT_BYTES_PER_S: Final = 60e9
"""Memory bandwidth one resident tile can use; a machine with fewer, larger units is seen as bandwidth / this many
(guess, H20 and B200 reach 54e9)."""
HOT_SHARPNESS: Final = 8.0
"""Exponent of the edge between a KV cache that stays in the last-level cache and one that does not (measured edges are
sharp)."""
HOT_FRAC: Final = 0.85
"""Of the last-level cache that repeated reads find hot."""


@dataclass(frozen=True, slots=True)
class AttentionDevice:
    """Spec-sheet facts of the machine attention runs on (SI units)."""

    units: float
    """Streaming multiprocessors, compute units or cores."""
    peak_ops_per_s: float
    """Dense peak of the 16-bit matrix engine."""
    dram_bytes_per_s: float
    l2_bytes: float
    l2_bytes_per_s: float
    """Bandwidth of reads that hit the last-level cache (may be an estimate)."""
    clock_hz: float
    copy_engine: str = "other"
    """"async" (Hopper, Blackwell), "mma_sync" (Ampere, Ada), "other"."""
    peak8_ops_per_s: float = 0.0
    """Dense peak of the 8-bit matrix engine; 0: none, 8-bit work runs at the 16-bit rate."""
    exp_per_clock: float = EXPONENTIALS_PER_CLOCK
    """Exponentials per clock and unit (32 on parts with doubled special-function units)."""
    feed16_ops_per_s: float = 0.0
    """16-bit rate of the units where the peak is capped, at which rows of padding pass; 0: the peak."""

    @property
    def slots(self) -> float:
        """Units tiles are handed to: never fewer than the memory needs to be kept busy."""
        return max(self.units, self.dram_bytes_per_s / UNIT_BYTES_PER_S)

    def peak_for(self, bits: ArrayLike, computes_fp8: bool) -> Array:
        """Matrix peak (ops/s) of attention over a KV cache of `bits` per element."""
        eight = max(self.peak8_ops_per_s, self.peak_ops_per_s) if computes_fp8 else self.peak_ops_per_s
        return np.where(np.asarray(bits, dtype=np.float64) <= 8, eight, self.peak_ops_per_s)


@dataclass(frozen=True, slots=True)
class AttentionFacts:
    """What one attention kernel does; facts of the software, not of the machine. Defaults: an unknown modern kernel."""

    name: str = "generic"
    packs_group: bool = True
    """Decode: the query heads that share a KV head are rows of one tile, so the cache is read once."""
    packs_group_windowed: bool = True
    splits_kv: bool = True
    """Decode: one sequence's cache is cut into pieces read in parallel, then combined."""
    splits_kv_windowed: bool = True
    balanced: bool = False
    """Decode: every unit gets the same share of the cache, whatever sequences and heads it is of (stream-K)."""
    splits_single_group: bool = True
    """False: no splitting when each query head has its own KV head."""
    max_splits: float = 128.0
    splits_above: float = 0.0
    """Cached tokens up to which nothing is cut."""
    row_tile: float = 64.0
    """Query rows of a decode tile; the matrix engine works on all of them."""
    kv_tile: float = 0.0
    """Cached tokens of a decode tile, read whole however short the cache, and one more where a window begins inside of
    one; 0: as many as fit shared memory, the last one in part."""
    narrow_group: float = 0.0
    """Groups up to this many heads use a tile of 16 rows instead."""
    items_per_slot: float = 1.0
    """Tiles a unit works on at once: divides the time of an item."""
    wide_group_frac: float = 0.15
    """Extra item time when more than 16 query heads share a KV head."""
    computes_fp8: bool = False
    """8-bit KV is multiplied in fp8 (queries are quantised); else it is converted and multiplied in 16 bit."""
    token_clocks: float = 0.0
    """Clocks a unit needs at least for a cached token of a tile: loads and softmax beside the products."""
    alone_ratio: float = 1.0
    """Time per token of a tile that runs alone on its unit, relative to a full unit's: what others hide."""
    fp8_token_clocks: float = 0.0
    """Clocks per cached token and tile spent converting or transposing fp8 values, at head_dim 128."""
    fp8_dim_exponent: float = 1.0
    fp8_extra_s: float = 0.0
    """s: quantisation of the queries and other fixed work of the fp8 path."""
    sequence_s: float = 0.0
    """s per sequence: scheduling metadata built on the device."""
    sequence_limit: float = 512.0
    """Sequences above which that cost stops growing (a plainer schedule takes over)."""
    window_item_s: float = 0.0
    """s per item: extra masking when the window is shorter than the context."""
    copies_output: bool = False
    """Decode with several sequences, grouped heads and more than one KV head ends in a copy kernel."""
    launch_ratio: float = 1.0
    """Of the machine's launch time (planning or several kernels in one call)."""
    combine_ratio: float = 1.0
    row_ratio: float = 1.0
    prefill_packs_group: bool = False
    prefill_pair_clocks: float = 0.0
    """Clocks per query and key, at head_dim 128 and tiles of 128 keys, beside products and exponentials."""
    prefill_rows: tuple[float, float, float] = (128.0, 128.0, 64.0)
    """Query rows of a tile for head_dim <= 64, <= 128, larger."""
    prefill_few_rows: float = 0.0
    """Query rows of a tile when there are fewer tiles than units; 0: no such choice."""
    prefill_sub_rows: float = 0.0
    """Rows a tile grows by; 0: a whole tile always."""
    prefill_narrow: bool = False
    """Short queries use tiles of 16 or 64 rows."""
    prefill_kv_tile: tuple[float, float, float] = (128.0, 128.0, 64.0)
    """Cached tokens of a tile for head_dim <= 64, <= 128, larger."""
    prefill_fp8_tile_ratio: float = 1.0
    prefill_exp_ratio: float = 1.0
    """Exponential time that is not hidden behind the products, relative to the machine's."""
    prefill_matrix_ratio: float = 1.0
    prefill_item_ratio: float = 1.0
    prefill_launch_ratio: float = 1.0
    prefill_window_item_s: float = 0.0
    prefill_mask_ratio: float = 0.0
    """Time of a key of a windowed prompt, relative to a plain one's, where keys outside of the window are masked and
    not skipped; 0: they are skipped."""
    prefill_scores_bytes: float = 0.0
    """Bytes moved per query, key and head by kernels apart for products and softmax; 0: the scores stay on the unit."""
    prefill_fp8_token_clocks: float = 0.0
    prefill_fp8_dim_exponent: float = 1.0
    prefill_fp8_extra_s: float = 0.0
    prefill_large_dim_ratio: float = 1.5
    """Slow-down of the products above head_dim 256."""
    cache_write_fp8_ratio: float = 1.0
    """Cache-write time per token with conversion to 8 bit, relative to a plain copy."""
    cache_write_fp8_loop_frac: float = 0.3
    """Of that time again for every further 512 elements of a token."""
