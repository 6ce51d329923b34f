"""Running requests that move to another replica of their pool, compiled (Llumnix, arXiv:2406.03243).

The freeness of a replica is the number of steps until its running requests have used its free blocks, those its queue
asks for taken off. Where the least free replica will soon have none and the freest has room, a request moves: its cache
is copied while it goes on, and it stops only for what the copy has not seen yet. A request that would have to give way
for lack of blocks moves at once instead, where another replica has room; who needed its blocks waits for them.

``f``: the fleet, ``x``: the setup of the pool, see :mod:`steelyard.simulation.kernel.state`.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.queue import blocks_of, take_blocks
from steelyard.simulation.kernel.state import MIGRATIONS
from steelyard.simulation.kernel.transfer import drop_slot, start_transfer

__all__ = ["BALANCE_S", "balance", "leave", "move_instead"]

#: A replica with blocks for fewer steps lets a request go, to one with room for so many times more steps.
FEW_STEPS, MUCH_FREER = 64.0, 4.0
#: Time between two looks at the freeness of a pool's replicas (a guess).
BALANCE_S = 0.5


@njit_inner
def freeness(f: Any, x: Any, r: int) -> float:
    """Steps until the running requests have used what is free, below 0 when the queue asks for more than that."""
    p, w = f.p, f.w
    running = 0
    for lane in range(p[r].first, p[r].first + x.lanes):
        running += w[lane].count + w[lane].coming
    free = p[r].free + p[r].evictable * x.unit_blocks
    i = p[r].waiting
    if i >= 0:
        free -= p[r].queued * blocks_of(x, f.q[i].isl + f.q[i].osl - f.q[i].remaining)
    return float(free * x.block / max(running, 1))


@njit_inner
def has_room(f: Any, x: Any, r: int, tokens: int) -> int:
    """A worker of a replica that can take a request of so many tokens and a step more, -1 none."""
    p, w = f.p, f.w
    if not p[r].up or p[r].waiting >= 0 or f.m.z[p[r].pool].max_loras > 0:  # its adapter may have no place there
        return -1
    if p[r].free + p[r].evictable * x.unit_blocks < blocks_of(x, tokens + x.block) + x.watermark:
        return -1
    best = p[r].first
    for lane in range(p[r].first, p[r].first + x.lanes):
        if w[lane].count + w[lane].coming < w[best].count + w[best].coming:
            best = lane
    if w[best].count + w[best].coming >= max(1, x.max_seqs // x.lanes):
        return -1
    return int(best)


@njit_inner
def freest(f: Any, x: Any, r: int) -> int:
    """The other replica of the pool with the most room, -1 when there is none."""
    p = f.p
    best, most = -1, 0.0
    for k in range(p.shape[0]):
        if k != r and p[k].pool == p[r].pool and p[k].up:
            free = freeness(f, x, k)
            if free > most:
                best, most = k, free
    return int(best)


@njit_inner
def move(f: Any, x: Any, lane: int, r: int, j: int, to: int, now: float, copied: int) -> bool:
    """Take a decoding request to another worker; ``copied`` tokens of its cache are there already."""
    q, s, w, p = f.q, f.s, f.w, f.p
    i = s[lane, j].request
    known, left, token_at = s[lane, j].computed, s[lane, j].left, s[lane, j].token_at
    k = w[to].replica
    if not take_blocks(f, x, k, blocks_of(x, known)):
        return False
    q[i].remaining = left
    q[i].last_at = token_at
    q[i].origin = r
    q[i].kept = s[lane, j].blocks
    q[i].answered_by = k
    drop_slot(s, w, lane, j)
    p[r].load -= 1
    p[k].load += 1
    at = w[to].count + w[to].coming
    w[to].coming += 1
    slot = s[to, at]
    slot.request = i
    slot.computed = known
    slot.target = known
    slot.left = left
    slot.blocks = blocks_of(x, known)
    slot.take = 0
    slot.token_at = token_at
    slot.ready_at = start_transfer(f, x, i, k, to, known - copied, now)
    f.total[p[r].pool, MIGRATIONS] += 1
    if not w[to].busy:
        w[to].end = min(w[to].end, slot.ready_at)
    return True


@njit_inner
def move_instead(f: Any, x: Any, lane: int, r: int, j: int, now: float) -> bool:
    """Move a request that would have to give way, when it decodes and another replica has room for it."""
    slot = f.s[lane, j]
    if slot.computed < slot.target or slot.left == 0:
        return False
    k = freest(f, x, r)
    if k < 0:
        return False
    to = has_room(f, x, k, slot.computed)
    return to >= 0 and move(f, x, lane, r, j, to, now, 0)


@njit_inner
def balance(f: Any, k: int, now: float) -> None:
    """Begin to copy the newest request of the least free replica of pool ``k`` to the freest, where that helps."""
    p, w, s = f.p, f.w, f.s
    x = f.setups[k]
    worst, least = -1, math.inf
    for r in range(p.shape[0]):
        if p[r].pool == k and p[r].up and p[r].leaving < 0:
            free = freeness(f, x, r)
            if free < least:
                worst, least = r, free
    if worst < 0 or least >= FEW_STEPS:
        return
    best = freest(f, x, worst)
    if best < 0 or freeness(f, x, best) < MUCH_FREER * max(least, 1.0):
        return
    for lane in range(p[worst].first, p[worst].first + x.lanes):
        for j in range(w[lane].count - 1, -1, -1):
            slot = s[lane, j]
            if w[lane].count > 1 and slot.computed >= slot.target and slot.left > 1:
                if has_room(f, x, best, slot.computed) < 0:
                    return
                wire = f.wires[k, k]
                p[worst].leaving = slot.request
                p[worst].leave_to = best
                copy_s = wire.fixed_s + min(slot.computed, x.cap) * wire.token_s
                p[worst].link_free = max(now, p[worst].link_free) + copy_s
                p[worst].leave_at = p[worst].link_free
                p[worst].copied = slot.computed
                return


@njit_inner
def leave(f: Any, x: Any, lane: int, r: int, now: float) -> None:
    """The copy of a request that leaves is done: it goes, unless it has ended or lost its place meanwhile."""
    p = f.p
    i = p[r].leaving
    for j in range(f.w[lane].count):
        if f.s[lane, j].request == i:
            slot = f.s[lane, j]
            p[r].leaving = -1
            if slot.computed >= slot.target and slot.left > 0 and slot.computed >= p[r].copied:
                to = has_room(f, x, p[r].leave_to, slot.computed)
                if to >= 0:
                    move(f, x, lane, r, j, to, now, p[r].copied)
            return
    for k in range(p[r].first, p[r].first + x.lanes):  # it may run in another lane
        for j in range(f.w[k].count):
            if f.s[k, j].request == i:
                return
    p[r].leaving = -1
