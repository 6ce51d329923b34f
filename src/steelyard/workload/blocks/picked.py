"""Attention to blocks of earlier tokens that each query picks by the means of their keys.

Native sparse attention (NSA, arXiv:2502.11089) has three branches of its own gates: the means of keys and values of all
finished blocks, the picked blocks token by token, a sliding window. A mixture of block attention (MoBA,
arXiv:2502.13189) has the picked blocks alone, and every query head picks for itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.blocks.core import Seen, attended, core_ops, in_chunks, query_key_pairs
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Attention, Shapes
from steelyard.workload.step import Step

__all__ = ["finished_blocks", "picked_ops", "picked_pairs"]


def finished_blocks(length: Array, size: int) -> Array:
    """Sum over positions 1..length of the blocks that are whole at that position."""
    full = np.floor(length / size)
    return np.asarray(size * full * (full - 1) / 2 + full * (length - size * full + 1), dtype=np.float64)


def picked_pairs(length: Array, size: int, picked: int) -> Array:
    """Sum over positions 1..length of the tokens seen: those of the own block so far, and ``picked - 1`` blocks before.

    Where fewer blocks come before, all of them are seen.
    """
    full, most = np.floor(length / size), picked - 1
    inside = np.minimum(full, picked)
    earlier = size * (inside * (inside - 1) / 2 + most * (full - inside))
    earlier = earlier + (length - size * full) * np.minimum(full, most)
    return np.asarray(in_chunks(length, size) + size * earlier, dtype=np.float64)


def picked_ops(model: Shapes, step: Step, count: int, a: Attention, prefix: str) -> Iterator[Op]:
    """Means of the blocks, the choice, and each branch: scores, softmax and values over what it sees."""
    blocks = a.blocks
    assert blocks is not None
    new, context = (np.asarray(x, dtype=np.float64) for x in (step.new, step.context))
    entries, queries = context / blocks.size, a.heads // a.kv_heads
    pairs = finished_blocks(context, blocks.size) - finished_blocks(context - new, blocks.size)
    w = OpWriter(
        prefix,
        count,
        {
            "t": step.tokens,
            "d": model.hidden,
            "b": step.batch,
            "s": new,
            "l": entries,
            "n": new / blocks.size,
            "m": blocks.size,
            "h": a.heads,
            "g": a.kv_heads,
            "q": queries,
            "c": a.head_dim,
            "z": a.head_dim + a.values if blocks.pooled else a.head_dim,
        },
    )

    def branch(name: str, seen: Seen) -> Iterator[Op]:
        yield from core_ops(
            f"{prefix}.{name}",
            step,
            count,
            a,
            kv_heads=a.kv_heads,
            queries=queries,
            key_dim=a.head_dim,
            value_dim=a.values,
            seen=seen,
        )

    if blocks.gates:
        yield w.product("branch_gates", "t d, d y -> t y", derived={"y": (("h", blocks.gates),)})
    yield w.op("means", "b n m g z -> b n g z", ("kv", "means"), ("activation", "kv"), apply="copy", reduce="add")
    if blocks.pooled:
        yield from branch("means", Seen(0, pairs, entries, entries, False))
        chosen = "b g s l -> b g s l"  # the scores of a group's heads are added up
    else:
        yield w.op(
            "block_scores",
            "b g q s c, b g l c -> b g q s l",
            ("queries", "mean_keys", "scores"),
            ("activation", "kv", "activation"),
            domain={("s", "l"): pairs},
        )
        chosen = "b g q s l -> b g q s l"
    picks: dict[tuple[str, ...], Size] = {("s", "l"): pairs}
    yield w.op("block_top_k", chosen, ("scores", "chosen"), (), apply="top_k", reduce="none", domain=picks)
    most = blocks.size * blocks.picked
    seen = picked_pairs(context, blocks.size, blocks.picked) - picked_pairs(context - new, blocks.size, blocks.picked)
    # heads that pick for themselves read what each of them picked
    reach = np.minimum(context, most * (queries if blocks.per_head else 1) + new - 1)
    yield from branch("picked", Seen(most, seen, reach, context, True))
    if blocks.window:
        near = np.minimum(context, attended(context, blocks.window) + new - 1)
        inside = query_key_pairs(new, context, True, blocks.window)
        yield from branch("window", Seen(blocks.window, inside, near, context, True))
    if blocks.gates:
        names, sizes = ("branches", "gates", "attended"), {"u": blocks.gates}
        yield w.op("branch_sum", "t u h c, t u h -> t h c", names, ("activation",) * 3, reduce="none", more=sizes)
