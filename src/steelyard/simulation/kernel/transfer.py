"""Caches on their way between replicas, compiled. ``f``: the fleet, see ``state.Fleet``."""

from __future__ import annotations

import math
from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.state import SENT
from steelyard.simulation.kernel.timer import set_timer

__all__ = ["drop_slot", "next_ready", "start_transfer", "welcome"]


@njit_inner
def start_transfer(f: Any, x: Any, i: int, r: int, lane: int, tokens: int, now: float) -> float:
    """Send the cache of a request from the replica that keeps it to ``r``; when it is there.

    ``end = max(now, max(link free, begin) + bytes / bandwidth) + latency``. The receiver pulls: ``begin`` is now. With
    ``overlap`` the sender has pushed that share of it, layer by layer, before the prompt's last step ended.
    """
    p, q = f.p, f.q
    sender = q[i].origin
    k, m = p[sender].pool, p[r].pool
    wire = f.wires[k, m]
    whole = wire.fixed_s + min(tokens, x.cap) * wire.token_s
    overlap = f.setups[k].overlap
    begin = now if overlap == 0.0 else q[i].last_at - overlap * whole
    free = max(p[sender].link_free, begin) + whole
    p[sender].link_free = free
    ready = max(now, free) + wire.latency_s
    p[sender].sending += 1
    f.total[k, 21] += 1
    f.total[k, 22] += wire.fixed_bytes + min(tokens, x.cap) * wire.token_bytes
    f.total[k, 23] += ready - now
    set_timer(f.timers, f.numbers, ready, SENT, i, lane)
    return float(ready)


@njit_inner
def welcome(s: Any, w: Any, lane: int, now: float) -> None:
    """Requests whose cache has come join the running ones, in the order they were admitted."""
    spare = s.shape[1] - 1
    at = w[lane].count
    for k in range(at, at + w[lane].coming):
        if s[lane, k].ready_at <= now:
            place = w[lane].count
            if k > place:
                s[lane, spare] = s[lane, k]
                for n in range(k, place, -1):
                    s[lane, n] = s[lane, n - 1]
                s[lane, place] = s[lane, spare]
            w[lane].count += 1
            w[lane].coming -= 1


@njit_inner
def next_ready(s: Any, w: Any, lane: int) -> float:
    """When the next of those whose cache is coming can run; inf when there is none."""
    soonest = math.inf
    for k in range(w[lane].count, w[lane].count + w[lane].coming):
        soonest = min(soonest, s[lane, k].ready_at)
    return float(soonest)


@njit_inner
def drop_slot(s: Any, w: Any, lane: int, j: int) -> None:
    """Close the gap that a running request leaves."""
    for n in range(j, w[lane].count + w[lane].coming - 1):
        s[lane, n] = s[lane, n + 1]
    w[lane].count -= 1
