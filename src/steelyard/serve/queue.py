"""Compiled queues: heaps of requests linked through per-request arrays, and the prefix cache's list by age.

A request is in one heap at most (not yet arrived, or waiting), so one pair of link arrays serves every queue of every
replica: 8 bytes per request, no growth.
"""

from __future__ import annotations

from typing import Any

from steelyard.serve.jit import njit

__all__ = ["drop_unit", "evict", "merge", "pop", "share_unit", "take_blocks"]


@njit
def before(q: Any, a: int, b: int) -> bool:
    """Whether request ``a`` comes before ``b``: smaller key, then smaller sequence number."""
    return bool(q.key[a] < q.key[b] or (q.key[a] == q.key[b] and q.seq[a] < q.seq[b]))


@njit
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
        right = q.right_child[a]
        q.right_child[a] = q.left_child[a]
        if right < 0:
            q.left_child[a] = b
            return root
        if before(q, b, right):
            q.left_child[a] = b
            a, b = b, right
        else:
            q.left_child[a] = right
            a = right


@njit
def push(q: Any, root: int, request: int) -> int:
    """Add a request whose key and sequence number are set; the new root."""
    q.left_child[request] = -1
    q.right_child[request] = -1
    return merge(q, root, request)


@njit
def pop(q: Any, root: int) -> int:
    """Take the root away; the new root."""
    return merge(q, q.left_child[root], q.right_child[root])


@njit
def _unlink(p: Any, r: int, unit: int) -> None:
    older, newer = p.older[r, unit], p.newer[r, unit]
    if older >= 0:
        p.newer[r, older] = newer
    else:
        p.oldest[r] = newer
    if newer >= 0:
        p.older[r, newer] = older
    else:
        p.newest[r] = older
    p.evictable[r] -= 1


@njit
def share_unit(p: Any, r: int, unit: int) -> None:
    """One more request holds a cached unit."""
    if p.refs[r, unit] == 0:
        _unlink(p, r, unit)
    p.refs[r, unit] += 1


@njit
def drop_unit(p: Any, r: int, unit: int) -> None:
    """One request fewer holds it; a unit nobody holds is the newest that may be evicted."""
    p.refs[r, unit] -= 1
    if p.refs[r, unit] == 0:
        newest = p.newest[r]
        p.older[r, unit] = newest
        p.newer[r, unit] = -1
        if newest >= 0:
            p.newer[r, newest] = unit
        else:
            p.oldest[r] = unit
        p.newest[r] = unit
        p.evictable[r] += 1


@njit
def evict(p: Any, r: int, unit_blocks: int) -> None:
    """Forget the unit that was let go longest ago."""
    unit = p.oldest[r]
    _unlink(p, r, unit)
    p.refs[r, unit] = -1
    p.free[r] += unit_blocks


@njit
def take_blocks(x: Any, p: Any, total: Any, r: int, blocks: int) -> bool:
    """Take free blocks, evicting cached prefixes by age where needed; False (and nothing taken) when too few."""
    if p.free[r] + p.evictable[r] * x.unit_blocks < blocks:
        return False
    while p.free[r] < blocks:
        evict(p, r, x.unit_blocks)
        total[17] += 1
    p.free[r] -= blocks
    return True
