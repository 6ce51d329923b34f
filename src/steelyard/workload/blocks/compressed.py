"""Attention over a window and a compressed cache (DeepSeek-V4): one vector is key and value of all heads.

A compressor turns every ``compress`` tokens into one entry by learned weights; with an indexer each query reads the
entries it picks, else all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.workload.blocks.attention import core_ops, indexer_ops
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["compressed_ops"]


def compressed_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Queries through a narrow layer, one key-value vector, the compressors, scores, grouped output projection."""
    a = layer.attention
    assert a is not None
    tokens, count, hidden = step.tokens, layer.count, model.hidden
    base: dict[str, Size] = {"t": tokens, "d": hidden, "h": a.heads, "c": a.head_dim}

    def linear(name: str, einsum: str, more: dict[str, Size]) -> Op:
        return Op(
            f"{prefix}.{name}",
            einsum,
            {**base, **more},
            operands=("x", f"w_{name}", "y"),
            roles=("activation", "weight", "activation"),
            count=count,
            block="attention",
        )

    def normed(name: str, width: int) -> Op:
        return Op(
            f"{prefix}.{name}",
            "t r, r -> t r",
            {"t": tokens, "r": width},
            operands=("x", "norm", "y"),
            roles=("activation", "weight", "activation"),
            map="norm",
            reduce="none",
            bits={"norm": 16},
            count=count,
            block="attention",
        )

    yield linear("q_down", "t d, d r -> t r", {"r": a.q_rank})
    yield normed("q_norm", a.q_rank)
    yield linear("q_up", "t r, r h c -> t h c", {"r": a.q_rank})
    yield linear("kv", "t d, d c -> t c", {})
    yield normed("kv_norm", a.head_dim)
    yield Op(
        f"{prefix}.cache_write",
        "t c -> t c",
        base,
        operands=("kv", "cache"),
        roles=("activation", "kv"),
        map="rotary",
        reduce="none",
        count=count,
        block="attention",
    )
    if a.compress:
        # entries that overlap are made from two halves; values and the weights of their sum
        halves = 2 if a.index_heads else 1
        yield from _compressor(step, count, prefix, "entries", hidden, halves * a.head_dim, a.compress)
        yield normed("entry_norm", a.head_dim)
        if a.index_heads:
            yield from _compressor(step, count, prefix, "index_entries", hidden, halves * a.index_dim, a.compress)
            yield from indexer_ops(model, step, count, a, prefix)
    yield from core_ops(prefix, step, count, a, kv_heads=1, queries=a.heads, key_dim=a.head_dim, value_dim=a.head_dim)
    if a.out_groups:
        inner = a.heads * a.head_dim // a.out_groups
        yield linear("o_down", "t g i, g i r -> t g r", {"g": a.out_groups, "i": inner, "r": a.out_rank})
        yield linear("out", "t f, f d -> t d", {"f": a.out_groups * a.out_rank})
    else:
        yield linear("out", "t h c, h c d -> t d", {})


def _compressor(step: Step, count: int, prefix: str, name: str, hidden: int, width: int, every: int) -> Iterator[Op]:
    """Two projections of every token, weights of the positions inside an entry, and the weighed sum."""
    sizes: dict[str, Size] = {"t": step.tokens, "d": hidden, "w": width, "u": 2, "m": every}
    yield Op(
        f"{prefix}.{name}",
        "t d, u d w -> t u w",
        sizes,
        operands=("x", f"w_{name}", "y"),
        roles=("activation", "weight", "activation"),
        count=count,
        block="attention",
    )
    yield Op(
        f"{prefix}.{name}_sum",
        "t u w, m w -> t w",
        sizes,
        operands=("y", "positions", "entry"),
        roles=("activation", "weight", "activation"),
        map="softmax",
        reduce="none",
        domain={("t", "m"): step.tokens},
        count=count,
        block="attention",
    )
