"""Attention: MHA, MQA, GQA with windows and chunks, and multi-head latent attention (MLA)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.blocks.core import core_ops, query_key_pairs
from steelyard.workload.blocks.picked import picked_ops
from steelyard.workload.blocks.routed_heads import routed_heads
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Attention, Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["INDEX_KEY_BITS", "attention_ops", "indexer_ops", "mla_ops"]


def attention_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Projection, norms and rotary, cache write, scores, softmax, values, output projection."""
    a = layer.attention
    assert a is not None
    tokens, count = step.tokens, layer.count
    heads: dict[str, Size] = {"t": tokens, "d": model.hidden, "h": a.heads, "g": a.kv_heads, "c": a.head_dim}
    read = {**heads, "d": a.reads} if a.reads else heads
    keys = 0 if a.shared_kv else 1
    same = a.values == a.head_dim and not a.keys_as_values
    queries = 0 if a.q_rank or a.query_experts else 2 if a.query_gate else 1
    parts = tuple(x for x in (("h", queries), ("g", keys * (2 if same else 1))) if x[1])
    if a.q_rank:
        yield from _narrow_queries(heads, a.q_rank, prefix, count)
    if a.query_experts:
        yield from routed_heads(model, layer, step, prefix)
    yield Op(
        f"{prefix}.qkv",
        "t d, d p c -> t p c",
        read,
        operands=("x", "w_qkv", "qkv"),
        roles=("activation", "weight", "activation"),
        derived={"p": parts},
        count=count,
        block="attention",
    )
    if a.values != a.head_dim and keys and not a.keys_as_values:
        yield Op(
            f"{prefix}.v",
            "t d, d g c -> t g c",
            {**read, "c": a.values},
            operands=("x", "w_v", "v"),
            roles=("activation", "weight", "activation"),
            count=count,
            block="attention",
        )
    bias = tuple(x for x in (("h", int(a.q_bias)), ("g", (1 + int(a.k_bias)) * keys * int(a.kv_bias))) if x[1])
    if bias:
        yield _bias(f"{prefix}.qkv_bias", "p c", {**heads}, count, {"p": bias})
    if a.qk_norm:
        yield _qk_norm(a, heads, f"{prefix}.qk_norm", count)
    yield from _rotary_and_cache(a, step, heads, prefix, count)
    if a.index_heads:
        yield from indexer_ops(model, step, count, a, prefix)
    if a.blocks:
        yield from picked_ops(model, step, count, a, prefix)
    else:
        yield from core_ops(
            prefix,
            step,
            count,
            a,
            kv_heads=a.kv_heads,
            queries=a.heads // a.kv_heads,
            key_dim=a.head_dim,
            value_dim=a.values,
        )
    if a.head_gate:
        yield Op(
            f"{prefix}.gate",
            "t d, d h -> t h",
            heads,
            operands=("x", "w_gate", "gate"),
            roles=("activation", "weight", "activation"),
            count=count,
            block="attention",
        )
    if not a.query_experts:
        yield Op(
            f"{prefix}.out",
            "t h c, h c d -> t d",
            {**heads, "c": a.values},
            operands=("attended", "w_o", "y"),
            roles=("activation", "weight", "activation"),
            count=count,
            block="attention",
        )
    if a.out_bias:
        yield _bias(f"{prefix}.out_bias", "d", heads, count)


def _narrow_queries(heads: dict[str, Size], rank: int, prefix: str, count: int) -> Iterator[Op]:
    """Queries projected down to ``rank``, normed, and up to the heads."""
    sizes = {**heads, "r": rank}
    weighted = ("activation", "weight", "activation")
    plain = {"count": count, "block": "attention"}
    yield Op(f"{prefix}.q_down", "t d, d r -> t r", sizes, ("x", "w_q_down", "y"), weighted, **plain)  # type: ignore[arg-type]
    yield Op(
        f"{prefix}.q_norm",
        "t r, r -> t r",
        sizes,
        operands=("x", "norm", "y"),
        roles=weighted,
        map="norm",
        reduce="none",
        bits={"norm": 16},
        **plain,  # type: ignore[arg-type]
    )
    yield Op(f"{prefix}.q_up", "t r, r h c -> t h c", sizes, ("x", "w_q_up", "y"), weighted, **plain)  # type: ignore[arg-type]


def _rotary_and_cache(a: Attention, step: Step, heads: dict[str, Size], prefix: str, count: int) -> Iterator[Op]:
    fuse = f"{prefix}.rotary"
    if a.rotary_dim:
        yield Op(
            f"{prefix}.rotary",
            "t p c -> t p c",
            {**heads, "c": a.rotary_dim},
            operands=("qk", "qk_rotated"),
            map="rotary",
            reduce="none",
            derived={"p": _normed(a)},
            count=count,
            fuse=fuse,
            block="attention",
        )
    if a.causal and not a.shared_kv:
        yield Op(
            f"{prefix}.cache_write",
            "t g c -> t g c",
            {"t": step.tokens, "g": a.kv_heads, "c": a.head_dim + a.values},
            operands=("kv", "cache"),
            roles=("activation", "kv"),
            map="copy",
            reduce="none",
            count=count,
            fuse=fuse,
            block="attention",
        )


def _bias(
    name: str,
    index: str,
    sizes: dict[str, Size],
    count: int,
    derived: dict[str, tuple[tuple[str, int], ...]] | None = None,
) -> Op:
    return Op(
        name,
        f"t {index}, {index} -> t {index}",
        sizes,
        operands=("x", "bias", "y"),
        roles=("activation", "weight", "activation"),
        map="add",
        reduce="none",
        derived=derived or {},
        bits={"bias": 16, "x": 0, "y": 0},  # an epilogue of the product before it: no traffic of its own
        count=count,
        fuse=name,
        block="attention",
    )


def _normed(a: Attention) -> tuple[tuple[str, int], ...]:
    """What is normed and rotated: queries, and keys where the layer has its own."""
    return (("h", 1),) if a.shared_kv else (("h", 1), ("g", 1))


def _qk_norm(a: Attention, heads: dict[str, Size], name: str, count: int) -> Op:
    """Norm of queries and keys: weights of one head width each, of every head, or over all heads together."""
    index = {"head": "n c", "full": "p c", "per_head": "p c"}[a.qk_norm]
    return Op(
        name,
        f"t p c, {index} -> t p c",
        {**heads, "n": len(_normed(a))},
        operands=("qk", "norm", "qk_normed"),
        roles=("activation", "weight", "activation"),
        map="norm",
        reduce="none",
        derived={"p": _normed(a)},
        domain={("t", "n"): heads["t"]} if a.qk_norm == "head" else {},
        bits={"norm": 16},
        count=count,
        fuse=name.replace(".qk_norm", ".rotary"),
        block="attention",
    )


def mla_ops(model: Shapes, layer: Layer, step: Step, prefix: str, absorb: bool) -> Iterator[Op]:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).

    The cache holds one latent of ``kv_rank`` and one rotary key of ``rope_dim`` per token. ``absorb`` folds the key
    and value up-projections into query and output (decode: attention runs over the latent as one shared head of
    width ``kv_rank + rope_dim``); otherwise keys and values are expanded per head (prefill).
    """
    a = layer.attention
    assert a is not None
    count = layer.count
    w = OpWriter(prefix, count, {"t": step.tokens, "d": model.hidden, "h": a.heads})

    query = a.nope_dim + a.rope_dim
    latent = a.kv_rank + a.rope_dim
    yield w.product("latent", "t d, d r -> t r", {"r": (a.q_rank or 0) + latent}, weight="w_down")
    if a.q_rank:
        yield w.norm("q_norm", a.q_rank)
        yield w.product("q_up", "t r, r h c -> t h c", {"r": a.q_rank, "c": query}, weight="w_q_up")
    else:
        yield w.product("q", "t d, d h c -> t h c", {"c": query}, weight="w_q")
    yield w.norm("kv_norm", a.kv_rank)
    yield w.op(
        "cache_write",
        "t r -> t r",
        ("latent", "cache"),
        ("activation", "kv"),
        apply="rotary",
        reduce="none",
        more={"r": latent},
    )
    if a.index_heads:
        yield from indexer_ops(model, step, count, a, prefix)
    if absorb or a.index_top_k:  # picked tokens are read as they are cached, by prompts too
        yield w.product("k_absorb", "t h c, h c r -> t h r", {"c": a.nope_dim, "r": a.kv_rank}, weight="w_k_up")
        yield from core_ops(prefix, step, count, a, kv_heads=1, queries=a.heads, key_dim=latent, value_dim=a.kv_rank)
        yield w.product("v_absorb", "t h r, h r c -> t h c", {"c": a.values, "r": a.kv_rank}, weight="w_v_up")
    else:
        # keys and values of the whole context are expanded from the latents; earlier tokens are read from the cache
        seen = np.asarray(step.batch, dtype=np.float64) * step.context
        yield w.product("k_up", "t r, h c r -> t h c", {"t": seen, "c": a.nope_dim, "r": a.kv_rank}, weight="w_k_up")
        yield w.product("v_up", "t r, h r c -> t h c", {"t": seen, "c": a.values, "r": a.kv_rank}, weight="w_v_up")
        yield from core_ops(prefix, step, count, a, kv_heads=a.heads, queries=1, key_dim=query, value_dim=a.values)
    if a.head_gate:
        yield w.product("gate", "t d, d h -> t h", weight="w_gate")
    if a.query_gate:
        yield w.product("gate", "t d, d h c -> t h c", {"c": a.values}, weight="w_gate")
    yield w.product("out", "t h c, h c d -> t d", {"c": a.values}, weight="w_o")


#: Of a cached element of an indexer's keys, whatever the format of the cache: 8, and a scale of 32 for 128 of them.
INDEX_KEY_BITS = 8.25


def indexer_ops(model: Shapes, step: Step, count: int, a: Attention, prefix: str) -> Iterator[Op]:
    """Lightning indexer of sparse attention (DeepSeek-V3.2): scores every cached token, keeps ``index_top_k``.

    Queries come from the query latent (or the hidden state), the single key head and the head weights from the hidden
    state; the key is
    layer-normed (weight and bias) and cached.
    """
    sizes: dict[str, Size] = {
        "t": step.tokens,
        "d": model.hidden,
        "r": a.q_rank or model.hidden,
        "i": a.index_heads,
        "c": a.index_dim,
        "w": 1 if a.compress else 2,
    }
    weighted = ("activation", "weight", "activation")
    plain = {"count": count, "block": "attention"}
    yield Op(f"{prefix}.index_q", "t r, r i c -> t i c", sizes, ("x", "w_index_q", "y"), weighted, **plain)  # type: ignore[arg-type]
    if not a.compress:  # else its keys are made with the entries
        yield Op(f"{prefix}.index_k", "t d, d c -> t c", sizes, ("x", "w_index_k", "y"), weighted, **plain)  # type: ignore[arg-type]
    if not a.index_block:
        yield Op(f"{prefix}.index_w", "t d, d i -> t i", sizes, ("x", "w_index_w", "y"), weighted, **plain)  # type: ignore[arg-type]
    yield Op(
        f"{prefix}.index_norm",
        "t c, w c -> t c",
        sizes,
        operands=("x", "norm", "cache"),
        roles=("activation", "weight", "kv"),
        map="norm",
        reduce="none",
        domain={("t", "w"): step.tokens},
        bits={"norm": 16},
        **plain,  # type: ignore[arg-type]
    )
    yield Op(
        f"{prefix}.index_queries",
        "t i c -> t i c",
        sizes,
        operands=("x", "queries"),
        map="quantise",
        reduce="none",
        **plain,  # type: ignore[arg-type]
    )
    every = a.compress or a.index_block or 1
    entries = np.asarray(step.context, dtype=np.float64) / every
    scored: dict[str, Size] = {"b": step.batch, "s": step.new, "l": entries, "i": a.index_heads, "c": a.index_dim}
    pairs: dict[tuple[str, ...], Size] = {("s", "l"): query_key_pairs(step.new, step.context) / every}
    # the heads are weighted and added inside the kernel: one score per pair leaves it
    yield Op(
        f"{prefix}.index_scores",
        "b s i c, b l c -> b s l",
        scored,
        operands=("queries", "index_keys", "scores"),
        roles=("activation", "kv", "activation"),
        domain=pairs,
        bits={"index_keys": INDEX_KEY_BITS},
        **plain,  # type: ignore[arg-type]
    )
    yield Op(
        f"{prefix}.index_top_k",
        "b s l -> b s l",
        scored,
        operands=("scores", "chosen"),
        map="top_k",
        reduce="none",
        domain=pairs,
        **plain,  # type: ignore[arg-type]
    )
