"""Replicas that fail, come back, are started and shut down, compiled. ``f``: the fleet, see ``serve.state``."""

from __future__ import annotations

import math
from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.migrate import BALANCE_S
from steelyard.simulation.kernel.queue import blocks_of, pop
from steelyard.simulation.kernel.routing import send
from steelyard.simulation.kernel.state import (
    ANSWER,
    BALANCE,
    DOWN,
    DRAWN,
    ENTRY,
    FAILURES,
    HERE,
    INTERRUPTED,
    PREFILL,
    SCALE,
    STRANDED,
    UP,
)
from steelyard.simulation.kernel.timer import set_timer

__all__ = ["begin", "come_up", "fail", "scale"]


@njit_inner
def begin(f: Any, now: float) -> None:
    """Set the first events of every pool and replica."""
    p = f.p
    for r in range(p.shape[0]):
        if p[r].since >= 0:
            p[r].since = now
    for k in range(f.setups.shape[0]):
        x = f.setups[k]
        if x.scales:
            set_timer(f.timers, f.numbers, now, SCALE, k, 0)
        if x.migrate:
            set_timer(f.timers, f.numbers, now + BALANCE_S, BALANCE, k, 0)
    for r in range(p.shape[0]):
        if f.setups[p[r].pool].mtbf_s > 0 and is_first(f, r) and p[r].up:
            next_failure(f, r, now)


@njit_inner
def is_first(f: Any, r: int) -> bool:
    """Whether a scheduler is the first rank of its replica."""
    k = f.p[r].pool
    begin_ = r
    while begin_ > 0 and f.p[begin_ - 1].pool == k:
        begin_ -= 1
    return bool((r - begin_) % f.setups[k].ranks == 0)


@njit_inner
def next_failure(f: Any, r: int, now: float) -> None:
    """Set the time of the next failure of a replica: exponential."""
    f.p[r].failures += 1  # a failure that was set before is off
    n = f.p[r].failures
    wait = f.setups[f.p[r].pool].mtbf_s * f.draws[r, n % DRAWN]
    set_timer(f.timers, f.numbers, now + wait, DOWN, r, n)


@njit_inner
def forget_cache(f: Any, x: Any, r: int) -> None:
    """Every block of a replica is free and nothing is cached."""
    f.p[r].free = x.blocks
    f.p[r].evictable = 0
    f.p[r].oldest = -1
    f.p[r].newest = -1
    if x.unit_tokens > 0:
        for unit in range(f.u.shape[1]):
            f.u[r, unit].refs = -1
    if f.m.z[f.p[r].pool].max_loras > 0:
        for adapter in range(f.m.seat_of.shape[1]):
            f.m.seat_of[r, adapter] = -1
        for seat in range(f.m.seats.shape[1]):
            f.m.seats[r, seat].adapter = -1
            f.m.seats[r, seat].users = 0


@njit_inner
def fail(f: Any, first: int, drawn: int, now: float) -> None:
    """A replica stops: what it was doing begins again elsewhere, what it kept for others is computed again by them.

    ``drawn``: number of the failure, which comes back by itself; 0: one that was given.
    """
    p = f.p
    if not p[first].up or (drawn > 0 and drawn != p[first].failures):
        return
    x = f.setups[p[first].pool]
    f.total[p[first].pool, FAILURES] += 1
    for r in range(first, first + x.ranks):
        p[r].up = 0
    for r in range(first, first + x.ranks):
        lose_copies(f, r, now)
    for r in range(first, first + x.ranks):
        empty(f, x, r, now)
    if drawn > 0:
        for r in range(first, first + x.ranks):
            p[r].starting = 1
        set_timer(f.timers, f.numbers, now + x.restart_s, UP, first, 0)


@njit_inner
def empty(f: Any, x: Any, r: int, now: float) -> None:
    """Send everything a replica had elsewhere."""
    p, q, s, w = f.p, f.q, f.s, f.w
    k = p[r].pool
    p[r].load = 0
    p[r].leaving = -1
    p[r].sending = 0
    p[r].stage_free = now
    p[r].stage_out = now
    p[r].link_free = now
    forget_cache(f, x, r)
    for lane in range(p[r].first, p[r].first + x.lanes):
        count, coming, busy = w[lane].count, w[lane].coming, w[lane].busy
        w[lane].count = 0
        w[lane].coming = 0
        w[lane].busy = 0
        w[lane].end = math.inf
        w[lane].forming = 1
        for j in range(count + coming):
            slot = s[lane, j]
            i = slot.request
            if x.static and slot.left == 0:
                continue
            q[i].remaining = slot.left
            q[i].last_at = slot.token_at
            if j >= count and q[i].origin >= 0:  # its cache is still where it came from
                p[q[i].origin].sending -= 1
                send(f, i, ANSWER, now)
                continue
            f.total[k, 4] += slot.computed
            if busy:  # of a decode with guesses one token was counted
                f.total[k, 4] += slot.take if slot.computed < slot.target else min(slot.take, 1)
            f.total[k, INTERRUPTED] += 1
            slot.take = 0
            q[i].held = 0
            send(f, i, ENTRY, now)
    root = p[r].waiting
    p[r].waiting = -1
    p[r].queued = 0
    while root >= 0:
        i = root
        root = pop(q, i)
        if f.m.z[k].swap and f.m.swapped[i] > 0:  # what was moved to the host is lost with it
            f.m.tiers[f.m.tier_rows[r, 0]].used -= blocks_of(x, f.m.swapped[i])
            f.total[k, 4] += f.m.swapped[i]
            f.m.swapped[i] = 0
        send(f, i, ANSWER if q[i].origin >= 0 else ENTRY, now)


@njit_inner
def lose_copies(f: Any, r: int, now: float) -> None:
    """The caches a replica kept for requests elsewhere are gone: those compute them again where they are."""
    q, s, w, p = f.q, f.s, f.w, f.p
    k = p[r].pool
    for lane in range(w.shape[0]):
        for j in range(w[lane].count, w[lane].count + w[lane].coming):
            slot = s[lane, j]
            i = slot.request
            if q[i].origin == r:
                f.total[k, 4] += slot.computed
                f.total[k, INTERRUPTED] += 1
                slot.computed = 0
                slot.target = q[i].isl + q[i].osl - slot.left
                slot.ready_at = now
                q[i].origin = HERE
                q[i].kept = 0
                q[i].held = 0
    if f.setups[k].role == PREFILL or f.setups[k].migrate:
        for i in range(q.shape[0]):
            if q[i].origin == r:  # waiting for its turn elsewhere
                f.total[k, 4] += q[i].isl + q[i].osl - q[i].remaining - 1
                f.total[k, INTERRUPTED] += 1
                q[i].origin = HERE
                q[i].kept = 0
                q[i].held = 0


@njit_inner
def come_up(f: Any, first: int, now: float) -> None:
    """A replica is there (again); requests that nobody could take come to it."""
    p = f.p
    if p[first].up:
        return
    x = f.setups[p[first].pool]
    for r in range(first, first + x.ranks):
        p[r].up = 1
        p[r].starting = 0
        if p[r].since < 0:
            p[r].since = now
        p[r].link_free = max(p[r].link_free, now)
        p[r].stage_free = max(p[r].stage_free, now)
    if x.mtbf_s > 0:
        next_failure(f, first, now)
    for stage in range(3):
        root = f.numbers[STRANDED + stage]
        f.numbers[STRANDED + stage] = -1
        while root >= 0:
            i = root
            root = pop(f.q, i)
            send(f, i, stage, now)


@njit_inner
def stop_rent(f: Any, first: int, ranks: int, now: float) -> None:
    """A replica is given back."""
    p = f.p
    for r in range(first, first + ranks):
        if p[r].since >= 0:
            p[r].rented += now - p[r].since
            p[r].since = -1.0
        forget_cache(f, f.setups[p[r].pool], r)


@njit_inner
def scale(f: Any, k: int, now: float) -> None:
    """As many replicas of a pool as its requests ask for: those that are missing are started, one too many drained."""
    p = f.p
    x = f.setups[k]
    begin_ = 0
    while p[begin_].pool != k:
        begin_ += 1
    size = x.replicas // x.ranks
    load, up, lightest, lightest_load = 0, 0, -1, 0
    for g in range(size):
        first = begin_ + g * x.ranks
        mine = 0
        for r in range(first, first + x.ranks):
            mine += p[r].load
        load += mine
        if p[first].up or p[first].starting:
            up += 1
            if p[first].up and (lightest < 0 or mine <= lightest_load):
                lightest, lightest_load = first, mine
        elif p[first].since >= 0 and mine == 0 and holds_nothing(f, x, first):  # drained
            stop_rent(f, first, x.ranks, now)
    stage = 0 if x.role != 3 else 1
    root = f.numbers[STRANDED + stage]
    if root >= 0 and up < x.most:
        load += math.ceil(x.load_target)  # somebody waits for a replica to come
    wanted = int(min(max(math.ceil(load / x.load_target), x.least), x.most))
    for g in range(size):
        first = begin_ + g * x.ranks
        if wanted > up and not p[first].up and not p[first].starting:
            up += 1
            for r in range(first, first + x.ranks):
                p[r].starting = 1
            if p[first].since >= 0:  # it was draining
                set_timer(f.timers, f.numbers, now, UP, first, 0)
            else:
                for r in range(first, first + x.ranks):
                    p[r].since = now
                set_timer(f.timers, f.numbers, now + x.start_s, UP, first, 0)
    if wanted < up and lightest >= 0:
        for r in range(lightest, lightest + x.ranks):
            p[r].up = 0
    set_timer(f.timers, f.numbers, now + x.interval_s, SCALE, k, 0)


@njit_inner
def holds_nothing(f: Any, x: Any, first: int) -> bool:
    """Whether no request needs a block of a replica any more."""
    held = 0
    for r in range(first, first + x.ranks):
        held += x.blocks - f.p[r].free - f.p[r].evictable * x.unit_blocks
    return bool(held == 0)
