"""One cached vector as key and value of all heads, beside compressed caches (as DeepSeek-V4 has them), from shapes."""

from __future__ import annotations

from dataclasses import replace

from steelyard.workload.shapes import Attention
from steelyard.workload.structure.keys import Keys
from steelyard.workload.structure.module import Mixing, Module

__all__ = ["read_joint"]

#: Tokens seen in full where a config does not say how many.
_USUAL_WINDOW = 128


def read_joint(m: Module) -> Mixing | None:
    """Queries through a narrow layer, one vector of keys and values, an output projection that may be in groups."""
    rank, width = m.rows("q_a"), m.rows("kv")
    queries = m.rows("q_b", width=rank) if rank else 0
    if not rank or not width or not queries or queries % width or m.elements("kv_a_norm") != width:
        return None
    heads = queries // width
    groups = inner = 0
    if m.has("o_a", "o_b"):
        inner, rest = divmod(m.elements("o_a"), queries)
        if rest or not inner or m.rows("o_b") % inner:
            return None
        groups = m.rows("o_b") // inner
    elif m.rows("o") != queries:
        return None
    attention = Attention(
        heads=heads,
        kv_heads=1,
        head_dim=width,
        window=m.keys.window or _USUAL_WINDOW,
        sinks=m.has("sinks"),
        rotary_dim=m.keys.number("qk_rope_head_dim") or width // 8,
        q_rank=rank,
        joint_kv=True,
        out_groups=groups,
        out_rank=inner,
    )
    used = m.pieces("q_a", "q_b", "kv", "o", "o_a", "o_b", "sinks", "q_a_norm", "q_norm", "kv_a_norm")
    places = m.pieces("entry_position")
    if places:
        compressed = _compressed(m, attention, places[0].shape, m.keys)
        if compressed is None:
            return None
        attention = compressed
        used += m.pieces("entry_kv", "entry_gate", "entry_position", "entry_norm")
        used += m.pieces("index_q", "index_w", "index_kv", "index_gate", "index_position", "index_norm")
    return attention, "attention", used


def _compressed(m: Module, attention: Attention, shape: tuple[int, ...], keys: Keys) -> Attention | None:
    """With its cache of one entry for as many tokens as there are positions in an entry."""
    width = attention.head_dim
    if len(shape) != 2 or m.rows("entry_kv") != shape[1] or m.rows("entry_gate") != shape[1]:
        return None
    heads = m.rows("index_w")
    if shape[1] != (2 if heads else 1) * width:
        return None
    if not heads:
        return replace(attention, compress=shape[0])
    narrow, rest = divmod(m.rows("index_q", width=attention.q_rank), heads)
    if rest or not narrow or m.rows("index_kv") != 2 * narrow:
        return None
    chosen = keys.number("index_topk", "index_top_k") or 2048
    return replace(attention, compress=shape[0], index_heads=heads, index_dim=narrow, index_top_k=chosen)
