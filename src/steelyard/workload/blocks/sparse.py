"""Attention to part of the earlier tokens, put on a model by a technique: eviction, selection, sparse prefill.

Of ``L`` tokens a token of an answer attends to ``a(L) = (1 - f) min(L, s L, T) + f min(L, w)``: a share ``s``, at most
``T`` tokens, in a share ``f`` of the heads the ``w`` first and latest only. A token of a prompt attends to a share of
the keys before it, or to at most so many; the kernel takes the time of one with a window and as many pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.blocks.skipped import answering
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Attention, Sparse
from steelyard.workload.step import Step

__all__ = ["held", "kept", "peer_ops", "prompt_window", "sparse_ops"]


def kept(sparse: Sparse, context: Size) -> Array:
    """Tokens of the cache that a token of an answer attends to, the mean over the heads."""
    length = np.asarray(context, dtype=np.float64)
    others = np.maximum(np.minimum(length, 1.0), sparse.share * length)
    if sparse.tokens:
        others = np.minimum(others, sparse.tokens)
    return np.asarray((1 - sparse.streaming) * others + sparse.streaming * np.minimum(length, sparse.near))


def held(sparse: Sparse, context: Size) -> Array:
    """Tokens whose cache lies on the device, parts of one counted as such."""
    length = np.asarray(context, dtype=np.float64)
    near = sparse.streaming * np.minimum(length, sparse.near)
    others = kept(sparse, length) - near if sparse.drops else (1 - sparse.streaming) * length
    beside = (1 - sparse.streaming) * sparse.index * length if sparse.indexes else 0.0
    return np.asarray(near + sparse.resident * others + beside)


def prompt_window(sparse: Sparse, new: Size, context: Size) -> Array:
    """The window with as many pairs of query and key as a prompt computes; 0 = all.

    Of ``n`` queries after ``p`` tokens a share ``r`` of the ``n p + n^2 / 2`` pairs: ``r (p + n / 2)`` where that is
    at most ``p``, else ``p + n - sqrt(n^2 - 2 (r (n p + n^2 / 2) - n p))``.
    """
    n, whole = np.asarray(new, dtype=np.float64), np.asarray(context, dtype=np.float64)
    before = whole - n
    mean = np.minimum(sparse.prompt_share, 1.0) * (before + n / 2)
    if sparse.prompt_tokens:
        mean = np.minimum(mean, _mean_in(sparse.prompt_tokens, n, before))
    if sparse.prompt_streaming:
        near = np.minimum(_mean_in(sparse.near, n, before), before + n / 2)
        mean = (1 - sparse.streaming) * mean + sparse.streaming * near
    over = n * np.maximum(mean - before, 0.0)
    window = np.where(mean <= before, mean, whole - np.sqrt(np.maximum(n**2 - 2 * over, 0.0)))
    return np.asarray(np.where(mean >= before + n / 2, 0.0, np.maximum(window, 1.0)))


def _mean_in(window: float, new: Array, before: Array) -> Array:
    """Keys that a query sees on average within a window."""
    growing = np.clip(window - before, 0.0, new)
    seen = growing * (before + growing / 2) + (new - growing) * window
    return np.asarray(seen / np.maximum(new, 1.0))


def sparse_ops(prefix: str, step: Step, count: int, a: Attention, kv_heads: int, width: int) -> Iterator[Op]:
    """What choosing costs: an index read at every step, queries scored first in a prompt; what the host sends; what is
    copied together on the device; keys that are rebuilt from their ranks.

    Args:
        prefix, step, count, a: of the layer.
        kv_heads: of the cache as it is read.
        width: elements of a cached token and head.
    """
    s = a.sparse
    assert s is not None
    answer, context = answering(step), np.asarray(step.context, dtype=np.float64)
    new = np.asarray(step.new, dtype=np.float64)
    asked, prompted = np.where(answer, count, 0.0), np.where(answer, 0.0, count)
    sizes: dict[str, Size] = {"b": step.batch, "g": kv_heads, "s": step.new, "c": width}
    if s.index:
        yield from _scores(f"{prefix}.choose", sizes, (1 - s.streaming) * s.index * context, new, asked / s.every)
    if s.probes or s.probe_share or s.search:
        pairs = np.minimum(s.probes + s.probe_share * new, new) * context + s.search * new * np.log2(
            np.maximum(context, 2.0)
        )
        queries = {**sizes, "q": a.heads // max(a.kv_heads, 1), "c": a.head_dim}
        yield from _scores(f"{prefix}.probe", queries, pairs / new, new, prompted)
    if s.fetched:
        yield Op(
            f"{prefix}.fetch",
            "b g l c -> b g l c",
            {**sizes, "l": (1 - s.streaming) * s.fetched * kept(s, context)},
            operands=("host_kv", "fetched"),
            roles=("kv", "activation"),
            map="copy",
            reduce="none",
            count=asked,
            block="attention",
            facts={"over": "host"},
        )
    if s.gathered:
        yield Op(
            f"{prefix}.gather",
            "b g l c -> b g l c",
            {**sizes, "l": (1 - s.streaming) * kept(s, context)},
            operands=("kv", "chosen"),
            roles=("kv", "activation"),
            map="copy",
            reduce="none",
            count=asked,
            block="attention",
        )
    if s.rank:
        yield Op(
            f"{prefix}.rebuild",
            "b g l r, b g r c -> b g l c",
            {"b": step.batch, "g": kv_heads, "l": (1 - s.streaming) * kept(s, context), "r": s.rank, "c": a.head_dim},
            operands=("ranks_of_tokens", "ranks_of_keys", "keys"),
            count=asked,
            block="attention",
        )


def peer_ops(prefix: str, step: Step, count: int, a: Attention, queries: int, kv_heads: int) -> Iterator[Op]:
    """Queries sent to the instances that hold the rest of a cache, partial outputs that come back."""
    s = a.sparse
    assert s is not None
    if not s.peers:
        return
    yield Op(
        f"{prefix}.peers",
        "t g q c -> t g q c",
        {"t": step.tokens, "g": kv_heads, "q": queries, "c": max(a.head_dim, a.values) * s.peers},
        operands=("queries", "partial_outputs"),
        map="copy",
        reduce="none",
        count=np.where(answering(step), count, 0.0),
        block="attention",
        facts={"over": "peers", "link_rate": s.peer_rate, "wait_s": s.peer_wait_s},
    )


def _scores(name: str, sizes: dict[str, Size], entries: Array, new: Array, count: Array) -> Iterator[Op]:
    """Queries against entries, and the choice of the best."""
    heads = "b g q s" if "q" in sizes else "b g s"
    pairs: dict[tuple[str, ...], Size] = {("s", "l"): entries * new}
    sizes = {**sizes, "l": entries}
    plain = {"domain": pairs, "count": count, "block": "attention"}
    yield Op(
        f"{name}_scores",
        f"{heads} c, b g l c -> {heads} l",
        sizes,
        operands=("queries", "index", "scores"),
        roles=("activation", "kv", "activation"),
        **plain,  # type: ignore[arg-type]
    )
    yield Op(
        f"{name}_top_k",
        f"{heads} l -> {heads} l",
        sizes,
        operands=("scores", "chosen"),
        map="top_k",
        reduce="none",
        **plain,  # type: ignore[arg-type]
    )
