"""Replicas that fail, come back, are started and shut down, compiled."""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.migrate import BALANCE_S
from steelyard.simulation.kernel.queue import blocks_of, pop
from steelyard.simulation.kernel.routing import send
from steelyard.simulation.kernel.state import (
    BALANCE,
    DECODE,
    DOWN,
    DRAWN,
    ENTRY,
    HERE,
    OUTPUT,
    PREFILL,
    SCALE,
    UP,
    State,
    Tech,
)
from steelyard.simulation.kernel.timer import drop_timer, set_timer

__all__ = ["begin_events", "come_up", "fail", "scale"]


@njit_inner
def begin_events(state: State, tech: Tech, now: float) -> None:
    """Set the first events of every pool and replica."""
    apart()
    replicas = state.replicas
    for replica in range(replicas.shape[0]):
        if replicas[replica].since >= 0:
            replicas[replica].since = now
    for k in range(state.setups.shape[0]):
        cfg = state.setups[k]
        if cfg.scales:
            set_timer(state, tech, now, wide(SCALE), k, wide(0))
        if cfg.migrate:
            set_timer(state, tech, now + BALANCE_S, wide(BALANCE), k, wide(0))
    for replica in range(replicas.shape[0]):
        if state.setups[replicas[replica].pool].mtbf_s > 0 and is_first(state, tech, replica) and replicas[replica].up:
            next_failure(state, tech, replica, now)


@njit_inner
def is_first(state: State, tech: Tech, replica: int) -> bool:
    """Whether a scheduler is the first rank of its replica."""
    k = state.replicas[replica].pool
    begin = replica
    while begin > 0 and state.replicas[begin - 1].pool == k:
        begin -= 1
    return bool((replica - begin) % state.setups[k].ranks == 0)


@njit_inner
def next_failure(state: State, tech: Tech, replica: int, now: float) -> None:
    """Set the time of the next failure of a replica: exponential."""
    drop_timer(state, tech, wide(DOWN), replica)  # a failure that was set before is off
    state.replicas[replica].failures += 1
    n = state.replicas[replica].failures
    wait = state.setups[state.replicas[replica].pool].mtbf_s * tech.draws[replica, n % DRAWN]
    set_timer(state, tech, now + wait, wide(DOWN), replica, n)


@njit_inner
def forget_cache(state: State, tech: Tech, cfg: Any, replica: int) -> None:
    """Every block of a replica is free and nothing is cached."""
    apart()
    state.replicas[replica].free = cfg.blocks
    state.replicas[replica].evictable = 0
    state.replicas[replica].oldest = -1
    state.replicas[replica].newest = -1
    if cfg.unit_tokens > 0:
        for unit in range(state.units.shape[1]):
            state.units[replica, unit].refs = -1
    if tech.records[state.replicas[replica].pool].max_loras > 0:
        for adapter in range(tech.slot_of.shape[1]):
            tech.slot_of[replica, adapter] = -1
        for slot in range(tech.lora_slots.shape[1]):
            tech.lora_slots[replica, slot].adapter = -1
            tech.lora_slots[replica, slot].users = 0


@njit_inner
def fail(state: State, tech: Tech, first: int, drawn: int, now: float) -> None:
    """A replica stops: what it was doing begins again elsewhere, what it kept for others is computed again by them.

    One that drains fails as well, and is then given back. One that is starting is taken out only at a given time: its
    start is called off. Where replicas follow the load, one that was taken out at a given time is given back too: the
    autoscaler starts another when the load asks for it.

    ``drawn``: number of the failure, which comes back by itself; 0: one that was given.
    """
    apart()
    replicas = state.replicas
    cfg = state.setups[replicas[first].pool]
    draining = cfg.scales > 0 and not replicas[first].up and not replicas[first].starting and replicas[first].since >= 0
    if drawn == 0 and replicas[first].starting:
        end_start(state, tech, first, cfg.ranks)
        if cfg.scales > 0:
            stop_rent(state, tech, first, cfg.ranks, now)
        return
    if not (replicas[first].up or draining):
        return
    state.totals[replicas[first].pool].failures += 1
    for replica in range(first, first + cfg.ranks):
        replicas[replica].up = 0
    for replica in range(first, first + cfg.ranks):
        lose_copies(state, tech, replica, now)
    for replica in range(first, first + cfg.ranks):
        empty(state, tech, cfg, replica, now)
    if draining or (drawn == 0 and cfg.scales > 0):
        stop_rent(state, tech, first, cfg.ranks, now)
    elif drawn > 0:
        start(state, tech, first, cfg.ranks, now + cfg.restart_s)


@njit_inner
def empty(state: State, tech: Tech, cfg: Any, replica: int, now: float) -> None:
    """Send everything a replica had elsewhere."""
    apart()
    replicas, requests, slots, workers = state.replicas, state.requests, state.slots, state.workers
    k = replicas[replica].pool
    for worker in range(replicas[replica].first, replicas[replica].first + cfg.stages):
        cut_short(state, cfg, worker, replica, now)
    replicas[replica].load = 0
    replicas[replica].leaving = -1
    replicas[replica].sending = 0
    replicas[replica].stage_free = now
    replicas[replica].stage_out = now
    replicas[replica].link_free = now
    forget_cache(state, tech, cfg, replica)
    for worker in range(replicas[replica].first, replicas[replica].first + cfg.stages):
        count, loading, busy = workers[worker].count, workers[worker].loading, workers[worker].busy
        workers[worker].count = 0
        workers[worker].loading = 0
        workers[worker].busy = 0
        workers[worker].end = math.inf
        workers[worker].forming = 1
        for j in range(count + loading):
            slot = slots[worker, j]
            i = wide(slot.request)
            if cfg.static and slot.left == 0:
                continue
            requests[i].remaining = slot.left
            requests[i].last_at = slot.token_at
            if j >= count and requests[i].origin >= 0:  # its cache is still where it came from
                replicas[requests[i].origin].sending -= 1
                send(state, tech, i, wide(OUTPUT), now)
                continue
            state.totals[k].dropped_tokens += slot.computed
            if busy:  # of a decode with guesses one token was counted
                state.totals[k].dropped_tokens += (
                    slot.step_tokens if slot.computed < slot.target else min(slot.step_tokens, 1)
                )
            state.totals[k].interrupted += 1
            slot.step_tokens = 0
            requests[i].held = 0
            send(state, tech, i, wide(ENTRY), now)
    root = replicas[replica].waiting
    replicas[replica].waiting = -1
    replicas[replica].queued = 0
    while root >= 0:
        i = root
        root = pop(requests, i)
        if tech.records[k].swap and tech.swapped[i] > 0:  # what was moved to the host is lost with it
            tech.tiers[tech.tier_rows[replica, 0]].used -= blocks_of(cfg, tech.swapped[i])
            state.totals[k].dropped_tokens += tech.swapped[i]
            tech.swapped[i] = 0
        send(state, tech, i, wide(OUTPUT if requests[i].origin >= 0 else ENTRY), now)


@njit_inner
def cut_short(state: State, cfg: Any, worker: int, replica: int, now: float) -> None:
    """The step of a worker ends now: what was counted of it beyond is taken back."""
    own, place = state.workers[worker], state.replicas[replica]
    if not own.busy or own.price_s <= 0.0:
        return
    rest, rows = min(own.end - now, own.price_s), 0
    for j in range(own.count):
        rows += state.slots[worker, j].step_tokens > 0
    total = state.totals[place.pool]
    total.busy_s -= rest / cfg.stages
    total.step_energy_j -= own.price_j * rest / own.price_s
    total.batch_s -= rows * rest
    total.kv_s -= (cfg.blocks - place.free - place.evictable * cfg.unit_blocks) * rest


@njit_inner
def lose_copies(state: State, tech: Tech, replica: int, now: float) -> None:
    """The caches a replica kept for requests elsewhere are gone: those compute them again where they are."""
    apart()
    requests, slots, workers, replicas = state.requests, state.slots, state.workers, state.replicas
    k = replicas[replica].pool
    for worker in range(workers.shape[0]):
        for j in range(workers[worker].count, workers[worker].count + workers[worker].loading):
            slot = slots[worker, j]
            i = wide(slot.request)
            if requests[i].origin == replica:
                state.totals[k].dropped_tokens += slot.computed
                state.totals[k].interrupted += 1
                slot.computed = 0
                slot.target = requests[i].isl + requests[i].osl - slot.left
                slot.ready_at = now
                requests[i].origin = HERE
                requests[i].kept = 0
                requests[i].held = 0
    if state.setups[k].role == PREFILL or state.setups[k].migrate:
        for i in range(requests.shape[0]):
            if requests[i].origin == replica:  # waiting for its turn elsewhere
                state.totals[k].dropped_tokens += requests[i].isl + requests[i].osl - requests[i].remaining - 1
                state.totals[k].interrupted += 1
                requests[i].origin = HERE
                requests[i].kept = 0
                requests[i].held = 0


@njit_inner
def start(state: State, tech: Tech, first: int, ranks: int, ready_at: float) -> None:
    """A replica begins to start; :func:`end_start` may call it off before ``ready_at``."""
    replicas = state.replicas
    for replica in range(first, first + ranks):
        replicas[replica].starting = 1
    set_timer(state, tech, ready_at, wide(UP), first, wide(1))


@njit_inner
def end_start(state: State, tech: Tech, first: int, ranks: int) -> None:
    """A replica no longer starts: it is there, or it was called off."""
    for replica in range(first, first + ranks):
        state.replicas[replica].starting = 0
    drop_timer(state, tech, wide(UP), first)


@njit_inner
def come_up(state: State, tech: Tech, first: int, now: float) -> None:
    """A replica is there (again), started or at a given time; requests that nobody could take come to it."""
    apart()
    replicas = state.replicas
    if replicas[first].up:
        return
    cfg = state.setups[replicas[first].pool]
    end_start(state, tech, first, cfg.ranks)
    for replica in range(first, first + cfg.ranks):
        replicas[replica].up = 1
        if replicas[replica].since < 0:
            replicas[replica].since = now
        replicas[replica].link_free = max(replicas[replica].link_free, now)
        replicas[replica].stage_free = max(replicas[replica].stage_free, now)
    if cfg.mtbf_s > 0:
        next_failure(state, tech, first, now)
    for stage in range(3):
        root = tech.stranded[stage]
        tech.stranded[stage] = -1
        tech.stranded[3 + stage] = 0
        while root >= 0:
            i = root
            root = pop(state.requests, i)
            send(state, tech, i, stage, now)


@njit_inner
def stop_rent(state: State, tech: Tech, first: int, ranks: int, now: float) -> None:
    """A replica is given back."""
    replicas = state.replicas
    for replica in range(first, first + ranks):
        if replicas[replica].since >= 0:
            replicas[replica].rented += now - replicas[replica].since
            replicas[replica].since = -1.0
        forget_cache(state, tech, state.setups[replicas[replica].pool], replica)


@njit_inner
def scale(state: State, tech: Tech, k: int, now: float) -> bool:
    """As many replicas of a pool as its requests ask for.

    Those that are missing come from the ones that still drain, then from new ones. One too many is called off if one
    is starting, otherwise the one with the least to do drains; the last that serves never does while there is a
    request or a replica is to stay.

    Returns:
        whether there was anything to do, or a replica still drains.
    """
    apart()
    replicas = state.replicas
    cfg = state.setups[k]
    begin = 0
    while replicas[begin].pool != k:
        begin += 1
    size = cfg.replicas // cfg.ranks
    load = int(tech.stranded[3 if cfg.role != DECODE else 4])  # they wait for a replica to come
    ready, starting, draining, lightest, lightest_load, latest = 0, 0, 0, -1, 0, -1
    for g in range(size):
        first = begin + g * cfg.ranks
        mine = 0
        for replica in range(first, first + cfg.ranks):
            mine += replicas[replica].load
        load += mine
        if replicas[first].up:
            ready += 1
            if lightest < 0 or mine <= lightest_load:
                lightest, lightest_load = first, mine
        elif replicas[first].starting:
            starting += 1
            if latest < 0 or replicas[first].since >= replicas[latest].since:
                latest = first
        elif replicas[first].since >= 0:
            draining += 1
            if mine == 0 and holds_nothing(state, tech, cfg, first):
                stop_rent(state, tech, first, cfg.ranks, now)
    up = ready + starting
    wanted = int(min(max(math.ceil(load / cfg.load_target), cfg.least), cfg.most))
    still = wanted == up and draining == 0
    for fresh in range(2):  # those that drain, then those that are off
        for g in range(size):
            first = begin + g * cfg.ranks
            if wanted > up and not (replicas[first].up or replicas[first].starting):
                if fresh == 0 and replicas[first].since >= 0:
                    up += 1
                    start(state, tech, first, cfg.ranks, now)
                elif fresh == 1:
                    up += 1
                    for replica in range(first, first + cfg.ranks):
                        replicas[replica].since = now
                    start(state, tech, first, cfg.ranks, now + cfg.start_s)
    if wanted < up and latest >= 0 and (ready > 0 or wanted == 0):
        end_start(state, tech, latest, cfg.ranks)
        stop_rent(state, tech, latest, cfg.ranks, now)
    elif wanted < ready and (ready > 1 or load == 0):
        for replica in range(lightest, lightest + cfg.ranks):
            replicas[replica].up = 0
    return not still


@njit_inner
def holds_nothing(state: State, tech: Tech, cfg: Any, first: int) -> bool:
    """Whether no request needs a block of a replica any more."""
    held = 0
    for replica in range(first, first + cfg.ranks):
        held += cfg.blocks - state.replicas[replica].free - state.replicas[replica].evictable * cfg.unit_blocks
    return bool(held == 0)
