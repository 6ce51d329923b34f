"""Caches on their way between replicas, compiled."""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import njit_inner, wide
from steelyard.simulation.kernel.state import SENT, State, Tech
from steelyard.simulation.kernel.timer import set_timer

__all__ = ["admit_loaded", "drop_slot", "next_ready", "start_transfer"]


@njit_inner
def start_transfer(
    state: State, tech: Tech, cfg: Any, i: int, replica: int, worker: int, tokens: int, now: float
) -> float:
    """Send the cache of a request from the replica that keeps it to another; when it is there.

    ``end = max(now, max(link free, begin) + bytes / bandwidth) + latency``. The receiver pulls: ``begin`` is now. With
    ``overlap`` the sender has pushed that share of it, layer by layer, before the prompt's last step ended.
    """
    replicas, requests = state.replicas, state.requests
    sender = requests[i].origin
    k = replicas[sender].pool
    wire = tech.wires[k, replicas[replica].pool]
    whole = wire.fixed_s + min(tokens, cfg.cap) * wire.token_s
    overlap = state.setups[k].overlap
    begin = now if overlap == 0.0 else requests[i].last_at - overlap * whole
    free = max(replicas[sender].link_free, begin) + whole
    replicas[sender].link_free = free
    ready = max(now, free) + wire.latency_s
    replicas[sender].sending += 1
    state.totals[k].transfers += 1
    state.totals[k].transfer_bytes += wire.fixed_bytes + min(tokens, cfg.cap) * wire.token_bytes
    state.totals[k].transfer_s += ready - now
    set_timer(state, tech, ready, wide(SENT), i, worker)
    return float(ready)


@njit_inner
def admit_loaded(state: State, worker: int, now: float) -> None:
    """Requests whose cache has come join the running ones, in the order they were admitted."""
    slots, workers = state.slots, state.workers
    spare = slots.shape[1] - 1
    at = workers[worker].count
    for k in range(at, at + workers[worker].loading):
        if slots[worker, k].ready_at <= now:
            place = workers[worker].count
            if k > place:
                slots[worker, spare] = slots[worker, k]
                for n in range(k, place, -1):
                    slots[worker, n] = slots[worker, n - 1]
                slots[worker, place] = slots[worker, spare]
            workers[worker].count += 1
            workers[worker].loading -= 1


@njit_inner
def next_ready(state: State, worker: int) -> float:
    """When the next of those whose cache is on its way can run; inf when there is none."""
    slots, workers = state.slots, state.workers
    soonest = math.inf
    for k in range(workers[worker].count, workers[worker].count + workers[worker].loading):
        soonest = min(soonest, slots[worker, k].ready_at)
    return float(soonest)


@njit_inner
def drop_slot(state: State, worker: int, j: int) -> None:
    """Close the gap that a running request leaves."""
    slots, workers = state.slots, state.workers
    for n in range(j, workers[worker].count + workers[worker].loading - 1):
        slots[worker, n] = slots[worker, n + 1]
    workers[worker].count -= 1
