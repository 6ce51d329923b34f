"""The core of attention: which keys the queries of a step see, and scores, softmax and values over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from steelyard.workload.blocks.skipped import answering
from steelyard.workload.blocks.sparse import kept, peer_ops, prompt_window, sparse_ops
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Attention
from steelyard.workload.step import Step

__all__ = ["Seen", "attended", "core_ops", "in_chunks", "query_key_pairs"]


def attended(context: Size, window: int = 0, chunk: int = 0) -> Array:
    """Tokens of the cache a new token at the end reaches: ``min(context, window)``; a chunk keeps at most itself."""
    reach = np.asarray(context, dtype=np.float64)
    for limit in (window, chunk):
        if limit:
            reach = np.minimum(reach, limit)
    return reach


def query_key_pairs(new: Size, context: Size, causal: bool = True, window: int = 0, chunk: int = 0) -> Array:
    """(query, key) pairs of one sequence when the last ``new`` of ``context`` tokens are queries.

    Full causal: ``sum_{i=1..new} (p + i)`` with ``p = context - new``, that is ``new p + new (new + 1) / 2``.
    A window W caps each term at W. A chunk C restarts the count every C tokens.
    Not causal: ``new * context``; a window W reaches W tokens to each side (fewer at the ends), a chunk C only itself.
    """
    n, total = np.asarray(new, dtype=np.float64), np.asarray(context, dtype=np.float64)
    if not causal:
        if not window:
            return np.asarray(n * (np.minimum(total, chunk) if chunk else total), dtype=np.float64)
        left = _capped(total - 1, window) - _capped(total - n - 1, window)
        return np.asarray(n + left + _capped(n - 1, window), dtype=np.float64)
    if chunk:
        return in_chunks(total, chunk) - in_chunks(total - n, chunk)
    pairs = n * (total - n) + n * (n + 1) / 2
    if window:
        pairs = _capped(total, window) - _capped(total - n, window)
    return np.asarray(pairs, dtype=np.float64)


def _capped(length: Array, window: Size) -> Array:
    """sum over positions 1..length of min(position, window)."""
    inside = np.clip(length, 0, window)
    return np.asarray(inside * (inside + 1) / 2 + np.maximum(length - inside, 0) * window, dtype=np.float64)


def in_chunks(length: Array, chunk: int) -> Array:
    """sum over positions 1..length of the position inside its chunk."""
    full = np.floor(length / chunk)
    rest = length - full * chunk
    return np.asarray(full * chunk * (chunk + 1) / 2 + rest * (rest + 1) / 2, dtype=np.float64)


class Seen(NamedTuple):
    """What the queries of a step see of one sequence."""

    limit: Size
    """Keys a query sees at most; 0 = all."""
    pairs: Array
    """Pairs of a query and a key."""
    reach: Size
    """Keys read at all."""
    keys: Size
    """Keys there are."""
    causal: bool


def _seen(a: Attention, step: Step) -> Seen:
    """What the queries see of the tokens before them.

    Tokens picked by an indexer count like a window. Entries of a compressed cache come on top of the window, as many as
    there are of earlier tokens, or as the indexer picks.
    """
    if a.sparse:
        return _sparsely(a, step)
    if not a.compress:
        window: Size = a.window or a.index_top_k
        pairs = query_key_pairs(step.new, step.context, a.causal, int(window), a.chunk)
        reach: Size = step.context
        if window or a.chunk:
            seen = attended(step.context, int(window), a.chunk) + step.new - 1
            reach = np.minimum(np.asarray(step.context, dtype=np.float64), seen)
        return Seen(window, pairs, reach, step.context, a.causal)
    new, context = np.asarray(step.new, dtype=np.float64), np.asarray(step.context, dtype=np.float64)
    entries = context / a.compress
    picked = np.minimum(entries, a.index_top_k) if a.index_top_k else entries
    pairs = query_key_pairs(new, context, True, a.window)

    def area(upto: Array) -> Array:
        inside = np.minimum(upto, a.index_top_k) if a.index_top_k else upto
        return np.asarray(inside**2 / 2 + (upto - inside) * inside)

    pairs = pairs + a.compress * (area(entries) - area((context - new) / a.compress))
    read = np.minimum(entries, picked * new) if a.index_top_k else entries
    near = np.minimum(context, a.window + new - 1)
    return Seen(a.window + picked, pairs, np.minimum(near + read, context), step.context, a.causal)


def _sparsely(a: Attention, step: Step) -> Seen:
    """What is seen of the tokens that a technique leaves: of an answer's as if there were no others."""
    assert a.sparse is not None
    answer, new = answering(step), np.asarray(step.new, dtype=np.float64)
    left = np.minimum(np.maximum(kept(a.sparse, step.context), new), step.context)
    window = prompt_window(a.sparse, new, step.context)
    context = np.where(answer, left, step.context)
    limit = np.where(answer | (window >= context), 0.0, window)
    inside = np.where(limit > 0, limit, np.asarray(step.context) + 1.0)
    pairs = np.where(limit > 0, _capped(context, inside) - _capped(context - new, inside), 0.0)
    pairs = np.where(limit > 0, pairs, query_key_pairs(new, context))
    return Seen(limit, pairs, context, context, True)


def core_ops(
    prefix: str,
    step: Step,
    count: int,
    a: Attention,
    *,
    kv_heads: int,
    queries: int,
    key_dim: int,
    value_dim: int,
    seen: Seen | None = None,
) -> Iterator[Op]:
    """Scores, softmax and values: one fused kernel unless the plan says otherwise. ``seen``: of a branch of its own."""
    # With latent attention the values are part of the keys that were just read: the second read is free.
    free = kv_heads == 1 and (a.is_mla or a.joint_kv)
    if a.sparse and seen is None:
        yield from sparse_ops(prefix, step, count, a, kv_heads, key_dim if free else key_dim + value_dim)
        yield from peer_ops(prefix, step, count, a, queries, kv_heads)
    seen = seen or _seen(a, step)
    sizes: dict[str, Size] = {
        "b": step.batch,
        "g": kv_heads,
        "q": queries,
        "s": step.new,
        "l": seen.keys,
        "c": key_dim,
        "z": value_dim,
    }
    fuse = f"{prefix}.attention"
    facts: dict[str, object] = {"window": seen.limit if a.compress or a.sparse else seen.limit or a.chunk}
    if seen.causal:
        facts["causal"] = True
    if a.index_top_k and not (a.compress or a.sparse):
        facts["picked"] = a.index_top_k
    shared = {
        "domain": {("s", "l"): seen.pairs},
        "visited": {"l": seen.reach},
        "count": count,
        "fuse": fuse,
        "block": "attention",
        "facts": facts,
    }
    yield Op(
        f"{prefix}.scores",
        "b g q s c, b g l c -> b g q s l",
        sizes,
        operands=("queries", "keys", "scores"),
        roles=("activation", "kv", "activation"),
        **shared,  # type: ignore[arg-type]
    )
    yield Op(
        f"{prefix}.softmax",
        "b g q s l -> b g q s l",
        sizes,
        operands=("scores", "weights"),
        map="softmax",
        reduce="none",
        **shared,  # type: ignore[arg-type]
    )
    yield Op(
        f"{prefix}.values",
        "b g q s l, b g l z -> b g q s z",
        sizes,
        operands=("weights", "cached_values", "attended"),
        roles=("activation", "activation" if free else "kv", "activation"),
        bits={"cached_values": 0} if free else {},
        **shared,  # type: ignore[arg-type]
    )
    if a.sinks:
        yield Op(
            f"{prefix}.sinks",
            "t g q, g q -> t g q",
            {"t": step.tokens, "g": kv_heads, "q": queries},
            operands=("maxima", "sinks", "denominators"),
            roles=("activation", "weight", "activation"),
            map="exp",
            reduce="none",
            bits={"sinks": 16},
            count=count,
            fuse=fuse,
            block="attention",
        )
