"""Compiled queues: heaps of requests linked through per-request arrays, and the prefix cache's list by age.

A request is in one heap at most (not yet arrived, or waiting), so one pair of link arrays serves every queue of every
replica: 8 bytes per request, no growth.
"""

from __future__ import annotations

from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.lower_tiers import keep_below

__all__ = ["blocks_of", "drop_unit", "evict", "merge", "pop", "share_unit", "take_blocks"]


@njit_inner
def before(q: Any, a: int, b: int) -> bool:
    """Whether request ``a`` comes before ``b``: smaller key, then smaller sequence number."""
    return bool(q[a].key < q[b].key or (q[a].key == q[b].key and q[a].seq < q[b].seq))


@njit_inner
def merge(q: Any, a: int, b: int) -> int:
    """The root of two skew heaps made one (Sleator and Tarjan 1986); -1 is the empty heap. Amortised O(log n)."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(q, b, a):
        a, b = b, a
    root = a
    while True:
        right = q[a].right_child
        q[a].right_child = q[a].left_child
        if right < 0:
            q[a].left_child = b
            return root
        if before(q, b, right):
            q[a].left_child = b
            a, b = b, right
        else:
            q[a].left_child = right
            a = right


@njit_inner
def push(q: Any, root: int, request: int) -> int:
    """Add a request whose key and sequence number are set; the new root."""
    q[request].left_child = -1
    q[request].right_child = -1
    return merge(q, root, request)


@njit_inner
def pop(q: Any, root: int) -> int:
    """Take the root away; the new root."""
    return merge(q, q[root].left_child, q[root].right_child)


@njit_inner
def _unlink(p: Any, u: Any, r: int, unit: int) -> None:
    older, newer = u[r, unit].older, u[r, unit].newer
    if older >= 0:
        u[r, older].newer = newer
    else:
        p[r].oldest = newer
    if newer >= 0:
        u[r, newer].older = older
    else:
        p[r].newest = older
    p[r].evictable -= 1


@njit_inner
def share_unit(p: Any, u: Any, r: int, unit: int) -> None:
    """One more request holds a cached unit."""
    if u[r, unit].refs == 0:
        _unlink(p, u, r, unit)
    u[r, unit].refs += 1


@njit_inner
def drop_unit(p: Any, u: Any, r: int, unit: int) -> None:
    """One request fewer holds it; a unit nobody holds is the newest that may be evicted."""
    u[r, unit].refs -= 1
    if u[r, unit].refs == 0:
        newest = p[r].newest
        u[r, unit].older = newest
        u[r, unit].newer = -1
        if newest >= 0:
            u[r, newest].newer = unit
        else:
            p[r].oldest = unit
        p[r].newest = unit
        p[r].evictable += 1


@njit_inner
def evict(p: Any, u: Any, r: int, unit_blocks: int) -> None:
    """Forget the unit that was let go longest ago."""
    unit = p[r].oldest
    _unlink(p, u, r, unit)
    u[r, unit].refs = -1
    p[r].free += unit_blocks


@njit_inner
def blocks_of(x: Any, tokens: int) -> int:
    """Blocks of a request with so many cached tokens."""
    return int((min(tokens, x.cap) + x.block - 1) // x.block + x.fixed)


@njit_inner
def take_blocks(f: Any, x: Any, r: int, blocks: int) -> bool:
    """Take free blocks, evicting cached prefixes by age where needed; False (and nothing taken) when too few."""
    p = f.p
    if p[r].free + p[r].evictable * x.unit_blocks < blocks:
        return False
    while p[r].free < blocks:
        if f.m.z[p[r].pool].tiers > 0:
            keep_below(f.m, f.m.z[p[r].pool], r, p[r].oldest, x.unit_blocks)
        evict(p, f.u, r, x.unit_blocks)
        f.total[p[r].pool, 17] += 1
    p[r].free -= blocks
    return True
