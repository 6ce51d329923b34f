"""Attention over a window and a compressed cache (DeepSeek-V4): one vector is key and value of all heads.

A compressor turns every ``compress`` tokens into one entry by learned weights; with an indexer each query reads the
entries it picks, else all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.workload.blocks.attention import indexer_ops
from steelyard.workload.blocks.core import core_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["compressed_ops"]


def compressed_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Queries through a narrow layer, one key-value vector, the compressors, scores, grouped output projection."""
    a = layer.attention
    assert a is not None
    count, hidden = layer.count, model.hidden
    w = OpWriter(prefix, count, {"t": step.tokens, "d": hidden, "h": a.heads, "c": a.head_dim})
    yield w.product("q_down", "t d, d r -> t r", {"r": a.q_rank})
    yield w.norm("q_norm", a.q_rank)
    yield w.product("q_up", "t r, r h c -> t h c", {"r": a.q_rank})
    yield w.product("kv", "t d, d c -> t c")
    yield w.norm("kv_norm", a.head_dim)
    yield w.op("cache_write", "t c -> t c", ("kv", "cache"), ("activation", "kv"), apply="rotary", reduce="none")
    if a.compress:
        # entries that overlap are made from two halves; values and the weights of their sum
        halves = 2 if a.index_heads else 1
        yield from _compressor(w, step, "entries", halves * a.head_dim, a.compress)
        yield w.norm("entry_norm", a.head_dim)
        if a.index_heads:
            yield from _compressor(w, step, "index_entries", halves * a.index_dim, a.compress)
            yield from indexer_ops(model, step, count, a, prefix)
    yield from core_ops(prefix, step, count, a, kv_heads=1, queries=a.heads, key_dim=a.head_dim, value_dim=a.head_dim)
    if a.out_groups:
        inner = a.heads * a.head_dim // a.out_groups
        yield w.product("o_down", "t g i, g i r -> t g r", {"g": a.out_groups, "i": inner, "r": a.out_rank})
        yield w.product("out", "t f, f d -> t d", {"f": a.out_groups * a.out_rank})
    else:
        yield w.product("out", "t h c, h c d -> t d")


def _compressor(w: OpWriter, step: Step, name: str, width: int, every: int) -> Iterator[Op]:
    """Two projections of every token, weights of the positions inside an entry, and the weighed sum."""
    sizes: dict[str, Size] = {"w": width, "u": 2, "m": every}
    yield w.product(name, "t d, u d w -> t u w", sizes)
    yield w.op(
        f"{name}_sum",
        "t u w, m w -> t w",
        ("y", "positions", "entry"),
        ("activation", "weight", "activation"),
        apply="softmax",
        reduce="none",
        domain={("t", "m"): step.tokens},
        more=sizes,
    )
