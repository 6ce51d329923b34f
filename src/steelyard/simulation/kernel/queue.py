"""Compiled queues: heaps of requests linked through per-request arrays, and the prefix cache's list by age.

A request is in one heap at most (not yet arrived, or waiting), so one pair of link arrays serves every queue of every
replica: 8 bytes per request, no growth.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.lower_tiers import keep_below
from steelyard.simulation.kernel.state import State

__all__ = ["blocks_of", "drop_unit", "evict", "merge", "pop", "share_unit", "take_blocks"]


@njit_inner
def before(requests: Any, a: int, b: int) -> bool:
    """Whether request ``a`` comes before ``b``: smaller key, then smaller sequence number."""
    return bool(
        requests[a].key < requests[b].key or (requests[a].key == requests[b].key and requests[a].seq < requests[b].seq)
    )


@njit_inner
def merge(requests: Any, a: int, b: int) -> int:
    """The root of two skew heaps made one (Sleator and Tarjan 1986); -1 is the empty heap. Amortised O(log n)."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(requests, b, a):
        a, b = b, a
    root = a
    while True:
        right = wide(requests[a].right_child)
        requests[a].right_child = requests[a].left_child
        if right < 0:
            requests[a].left_child = b
            return root
        if before(requests, b, right):
            requests[a].left_child = b
            a, b = b, right
        else:
            requests[a].left_child = right
            a = right


@njit_inner
def push(requests: Any, root: int, request: int) -> int:
    """Add a request whose key and sequence number are set; the new root."""
    requests[request].left_child = -1
    requests[request].right_child = -1
    return merge(requests, root, request)


@njit_inner
def pop(requests: Any, root: int) -> int:
    """Take the root away; the new root."""
    return merge(requests, wide(requests[root].left_child), wide(requests[root].right_child))


@njit_inner
def _unlink(replicas: Any, units: Any, replica: int, unit: int) -> None:
    older, newer = units[replica, unit].older, units[replica, unit].newer
    if older >= 0:
        units[replica, older].newer = newer
    else:
        replicas[replica].oldest = newer
    if newer >= 0:
        units[replica, newer].older = older
    else:
        replicas[replica].newest = older
    replicas[replica].evictable -= 1


@njit_inner
def share_unit(replicas: Any, units: Any, replica: int, unit: int) -> None:
    """One more request holds a cached unit."""
    if units[replica, unit].refs == 0:
        _unlink(replicas, units, replica, unit)
    units[replica, unit].refs += 1


@njit_inner
def drop_unit(replicas: Any, units: Any, replica: int, unit: int) -> None:
    """One request fewer holds it; a unit nobody holds is the newest that may be evicted."""
    units[replica, unit].refs -= 1
    if units[replica, unit].refs == 0:
        newest = replicas[replica].newest
        units[replica, unit].older = newest
        units[replica, unit].newer = -1
        if newest >= 0:
            units[replica, newest].newer = unit
        else:
            replicas[replica].oldest = unit
        replicas[replica].newest = unit
        replicas[replica].evictable += 1


@njit_inner
def evict(replicas: Any, units: Any, replica: int, unit_blocks: int) -> None:
    """Forget the unit that was let go longest ago."""
    unit = replicas[replica].oldest
    _unlink(replicas, units, replica, unit)
    units[replica, unit].refs = -1
    replicas[replica].free += unit_blocks


@njit_inner
def blocks_of(cfg: Any, tokens: int) -> int:
    """Blocks of a request with so many cached tokens."""
    return int((min(tokens, cfg.cap) + cfg.block - 1) // cfg.block + cfg.fixed)


@njit_inner
def take_blocks(state: State, tech: Any, cfg: Any, replica: int, blocks: int) -> bool:
    """Take free blocks, evicting cached prefixes by age where needed; False (and nothing taken) when too few."""
    if tech is not None:
        apart()
    replicas = state.replicas
    if replicas[replica].free + replicas[replica].evictable * cfg.unit_blocks < blocks:
        return False
    while replicas[replica].free < blocks:
        k = replicas[replica].pool
        if tech is not None and tech.records[k].tiers > 0:
            keep_below(tech, tech.records[k], replica, replicas[replica].oldest, cfg.unit_blocks)
        evict(replicas, state.units, replica, cfg.unit_blocks)
        state.totals[k].evicted_units += 1
    replicas[replica].free -= blocks
    return True
