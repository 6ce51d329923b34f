"""What is measured: cases of few kinds, over sizes a fit can learn from. No measuring here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

__all__ = ["CNN_SHAPES", "GEMM_PAIRS", "Case", "cases", "stream_cases"]

GEMM_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GEMM_PAIRS = (
    (256, 256),
    (512, 512),
    (1536, 512),
    (768, 768),
    (512, 2048),
    (3072, 768),
    (768, 3072),
    (1024, 1024),
    (3072, 1024),
    (4096, 1024),
    (1024, 4096),
    (2048, 2048),
    (8192, 1024),
)
"""(n, k) of transformer projections from 2^16 to 2^23 weights."""
GEMM_MACS = 1.2e9
"""Largest product measured: some 10 to 100 ms on one core."""
BATCHED = ((16, 64, 64, 64), (64, 64, 64, 64), (16, 128, 128, 64), (8, 256, 256, 64), (64, 16, 128, 64))
"""(groups, m, n, k) of small batched products."""
CHAINS = (
    "add_norm",
    "add_layer_norm",
    "gelu",
    "silu_mul",
    "relu",
    "add",
    "add_relu",
    "softmax",
    "copy",
    "rotary",
    "tanh",
)
CHAIN_SIZES = ((1, 512), (1, 4096), (16, 1024), (128, 768), (128, 3072), (512, 1024), (512, 4096), (1024, 4096))
"""(rows, width) of chains: outputs below 32 MiB, above which an allocator maps fresh pages at every call."""
PREFILL = (
    (1, 64, 8, 8, 64),
    (16, 32, 8, 8, 64),
    (8, 64, 8, 8, 64),
    (1, 96, 12, 12, 64),
    (4, 128, 12, 4, 64),
    (4, 160, 8, 8, 128),
    (2, 192, 8, 8, 96),
    (1, 256, 8, 8, 64),
    (1, 320, 16, 4, 128),
    (2, 384, 16, 16, 64),
    (1, 512, 12, 12, 64),
    (1, 768, 8, 2, 128),
    (1, 1024, 8, 8, 64),
)
"""(batch, new tokens, heads, KV heads, head width)."""
DECODE = (
    (1, 128, 8, 8, 64),
    (32, 128, 8, 8, 64),
    (8, 256, 16, 16, 64),
    (2, 300, 32, 8, 128),
    (1, 512, 16, 16, 128),
    (4, 512, 12, 4, 64),
    (16, 512, 8, 8, 64),
    (2, 768, 16, 16, 64),
    (1, 1024, 8, 8, 64),
    (8, 1024, 12, 12, 64),
    (1, 2048, 16, 4, 128),
    (4, 2048, 8, 8, 128),
    (1, 4096, 8, 2, 128),
)
"""(batch, cached tokens, heads, KV heads, head width)."""
CNN_SHAPES = (
    (1, 3, 64, 112, 7, 2),
    (1, 64, 64, 56, 3, 1),
    (1, 64, 256, 56, 1, 1),
    (1, 256, 64, 56, 1, 1),
    (1, 128, 128, 28, 3, 1),
    (1, 64, 128, 28, 3, 2),
    (1, 512, 128, 28, 1, 1),
    (1, 256, 256, 14, 3, 1),
    (1, 256, 1024, 14, 1, 1),
    (1, 512, 512, 7, 3, 1),
    (4, 32, 32, 48, 3, 1),
    (4, 96, 96, 24, 3, 1),
    (4, 256, 512, 14, 1, 1),
    (8, 192, 192, 14, 3, 1),
    (2, 64, 96, 40, 5, 1),
    (1, 128, 512, 28, 1, 1),
    (2, 512, 256, 14, 1, 1),
    (1, 1024, 256, 14, 1, 1),
    (4, 64, 64, 28, 1, 1),
    (1, 2048, 512, 7, 1, 1),
    (1, 160, 160, 40, 3, 1),
    (2, 128, 192, 20, 3, 2),
)
"""(batch, channels in, channels out, output height and width, kernel, stride)."""
STREAM_BYTES = tuple(2**e for e in range(15, 29))


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure."""

    op: str
    """``gemm``, ``conv``, ``vector``, ``prefill``, ``decode`` or ``stream``."""
    shape: Mapping[str, float]
    number_format: str = "fp32"
    detail: str = ""
    """Which chain or stream."""


def cases(number_formats: tuple[str, ...], *, quick: bool = False) -> list[Case]:
    """Every case of a calibration; ``quick`` keeps about a third of them."""
    found: list[Case] = []
    for fmt in number_formats:
        for (n, k), m in product(GEMM_PAIRS, GEMM_ROWS):
            if m * n * k <= GEMM_MACS:
                found.append(Case("gemm", {"m": m, "n": n, "k": k, "groups": 1}, fmt))
        for groups, m, n, k in BATCHED:
            found.append(Case("gemm", {"m": m, "n": n, "k": k, "groups": groups}, fmt))
        for batch, c, k, size, kernel, stride in CNN_SHAPES:
            shape = {"batch": batch, "c": c, "k": k, "size": size, "kernel": kernel, "stride": stride}
            found.append(Case("conv", shape, fmt))
        for chain, (rows, width) in product(CHAINS if fmt == number_formats[0] else (), CHAIN_SIZES):
            found.append(Case("vector", {"rows": rows, "width": width}, fmt, chain))
        for batch, new, heads, kv_heads, dim in PREFILL:
            shape = {"batch": batch, "new": new, "context": new, "heads": heads, "kv_heads": kv_heads, "head_dim": dim}
            found.append(Case("prefill", shape, fmt))
        for batch, context, heads, kv_heads, dim in DECODE:
            shape = {
                "batch": batch,
                "new": 1,
                "context": context,
                "heads": heads,
                "kv_heads": kv_heads,
                "head_dim": dim,
            }
            found.append(Case("decode", shape, fmt))
    return found[::3] if quick else found


def stream_cases(last_level_bytes: float, memory_bytes: float) -> list[Case]:
    """Reads, copies and triads from 32 KiB to several times the last-level cache, never more than 1/16 of memory."""
    top = min(max(4 * last_level_bytes, 2.0**27), memory_bytes / 16, 2.0**29)
    sizes = [s for s in STREAM_BYTES if s <= top]
    return [Case("stream", {"bytes": s}, "fp32", kind) for kind in ("read", "copy", "triad") for s in sizes]
